"""A run as people read it: views (table to small tuples), figures, one page, files."""

from hpsearch.report.files import write_report
from hpsearch.report.page import render_page, render_summary

__all__ = ["render_page", "render_summary", "write_report"]

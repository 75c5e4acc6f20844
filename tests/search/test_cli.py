"""What the command line says before any command runs."""

from hpsearch.cli import main


def test_a_bare_call_shows_the_help_line_by_line(capsys):
    assert main([]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("Usage: hpsearch")
    assert any(line.startswith("  pick ") for line in lines)

"""A run from elsewhere: its texts command no terminal and no spreadsheet."""

import csv
import io

import pytest
from archive_maker import make_row, make_run

from hpsearch.cli import main
from hpsearch.report.files import front_csv
from hpsearch.search_run import open_run
from hpsearch.visible import all_visible, visible

TITLE = "\x1b]0;taken over\x07"


@pytest.fixture
def foreign(tmp_path):
    rows = [
        make_row(1, node=f"host{TITLE}", device="=HYPERLINK(0)", params={f"a{TITLE}": f"b{TITLE}"}),
        make_row(2, state="failed", error=f"boom{TITLE}\nsecond line"),
    ]
    storage = make_run(tmp_path / "run", rows, name=f"run{TITLE}", space=f"my{TITLE}")
    (tmp_path / "run" / "trials" / f"odd{TITLE}.parquet").write_bytes(b"no parquet")
    return storage.location


def test_what_commands_a_terminal_is_written_out():
    assert visible(f"a{TITLE}\tb\nc") == "a\\x1b]0;taken over\\x07\tb\nc"
    assert visible("\u202etxt.exe") == "\\u202etxt.exe"
    assert visible("größer, 大") == "größer, 大"
    assert all_visible({"\x1b": ["\x9b", 1, None]}) == {"\\x1b": ["\\x9b", 1, None]}


@pytest.mark.parametrize("command", [["status"], ["pick", "--knee"], ["compare"]])
def test_no_text_of_a_run_commands_the_terminal(command, foreign, capsys):
    main([*command, foreign, *([foreign] if command == ["compare"] else [])])
    out, err = capsys.readouterr()
    assert "\x1b" not in out + err
    assert "odd\\x1b]0;" in out + err
    first = open_run(foreign).rows[0]
    assert first["params"] == {"a\\x1b]0;taken over\\x07": "b\\x1b]0;taken over\\x07"}


def test_an_error_line_commands_no_terminal(tmp_path, capsys):
    assert main(["status", str(tmp_path / TITLE)]) == 2
    assert "\x1b" not in capsys.readouterr().err


def test_a_text_that_a_spreadsheet_would_run_stays_a_text(foreign):
    (row,) = csv.DictReader(io.StringIO(front_csv(open_run(foreign).front).decode()))
    assert row["device"] == "'=HYPERLINK(0)"

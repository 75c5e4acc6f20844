"""What `hpsearch report` writes beside and around the page: files, summary, watching, where it goes."""

import csv
import io
import json
import math
import platform
import re
import time

import pyarrow.parquet as pq
import pytest
from archive_maker import make_row, make_rows

from greenprune_core.errors import ConfigError
from hpsearch.archive import write_trial
from hpsearch.cli import main
from hpsearch.lock import DriverLock
from hpsearch.report import render_page, render_summary, write_report
from hpsearch.report.front_view import front_view


def test_the_files_hold_the_front(run):
    write_report(run)
    ids = run.front["trial_id"].to_pylist()
    table = list(csv.DictReader(io.StringIO(run.storage.read_bytes("front.csv").decode())))
    assert [line["trial_id"] for line in table] == ids
    assert "energy_j [J]" in table[0]
    assert [line["trial_id"] for line in json.loads(run.storage.read_bytes("front.json"))] == ids
    parquet = pq.read_table(run.storage.local / "front.parquet")
    assert parquet["trial_id"].to_pylist() == ids
    assert parquet.schema.field("energy_j").metadata[b"unit"] == b"J"
    assert run.storage.read_bytes("pareto.png").startswith(b"\x89PNG")
    assert run.storage.read_bytes("pareto.svg").startswith(b"<svg")


def test_what_is_no_number_is_null_in_the_json_of_report_and_pick(open_rows, capsys):
    history = [{"epoch": 1, "val_accuracy": 0.5, "train_loss": math.inf}]
    run = open_rows([make_row(1, test_accuracy=math.nan, history=history)])
    write_report(run)
    assert main(["pick", run.storage.location, "--knee", "--json"]) == 0
    (row,), picked = (
        json.loads(text, parse_constant=pytest.fail)
        for text in (run.storage.read_bytes("front.json"), capsys.readouterr().out)
    )
    assert row["test_accuracy"] is picked["test_accuracy"] is row["history"][0]["train_loss"] is None
    assert row["started_at"] == run.rows[0]["started_at"].isoformat()


def test_the_summary_is_markdown_with_the_front(run):
    text = render_summary(run)
    assert text.startswith("## Search `run`")
    assert text.count("\n| `t0") == run.front.num_rows


def test_what_the_run_says_is_no_markdown_in_the_summary(open_rows):
    evil = "`<b>\n# ![x](http://evil/x.png) | *a*"
    rows = [make_row(1, energy_source=evil), make_row(2, energy_source=evil), make_row(3, state="failed", error=evil)]
    text = render_summary(open_rows([*rows, make_row(4, energy_source="~b~")], name=evil, space=evil))
    # in a code span a backtick alone ends it; elsewhere each sign that could begin something is escaped
    assert text.startswith("## Search `'<b> # ![x](http://evil/x.png) | *a*`\n")
    assert r"Cost axis: energy per inference, \`\<b\> # !\[x\](http://evil/x.png) \| \*a\*." in text
    assert r"its energy is from \~b\~, not from \`\<b\>" in text
    assert r"1 failed: \`\<b\>" in text
    outside = re.sub(r"`[^`\n]*`", "", text.replace(r"\`", ""))
    assert not re.search(r"(?<!\\)[<\[*]", outside)
    assert "\n#" not in text


def test_the_figure_of_a_run_is_a_chart(run, tmp_path):
    run.figure().save(tmp_path / "front.svg")
    assert (tmp_path / "front.svg").read_text().startswith("<svg")


def test_the_command_writes_to_an_address_too(run, tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    # of the schemes the one that needs no server; s3:// goes the same way
    assert main(["report", run.storage.location, "--output", f"file://{tmp_path}/out"]) == 0
    assert (tmp_path / "out" / "report.html").is_file()
    assert not list((tmp_path / "here").iterdir())


def test_the_command_writes_into_another_folder_when_asked(run, tmp_path, capsys):
    assert main(["report", run.storage.location, "--output", str(tmp_path / "out")]) == 0
    assert capsys.readouterr().out.startswith(f"wrote {tmp_path / 'out'}/report.html")
    assert not run.storage.exists("report.html")


def test_watching_ends_with_the_search_and_its_page_reloads_no_more(open_rows, capsys):
    run = open_rows(make_rows(4), trials=4)
    assert main(["report", run.storage.location, "--watch", "--every", "1"]) == 0
    assert capsys.readouterr().out.startswith("4 trials: wrote")
    assert b'http-equiv="refresh"' not in run.storage.read_bytes("report.html")
    assert 'http-equiv="refresh" content="5"' in render_page(run, reload_s=5)


def _two_seeds(*numbers):
    rows = [make_row(number, config_hash=f"t{number:05d}") for number in numbers]
    return rows + [make_row(number + 50, config_hash=f"t{number:05d}") for number in numbers]


def test_watching_a_search_with_several_seeds_counts_configurations(open_rows, monkeypatch, capsys):
    run = open_rows(_two_seeds(1, 2), trials=3)
    assert dict(front_view(run).n_by_state) == {"complete": 2, "stopped": 0, "failed": 0}
    monkeypatch.setattr(time, "sleep", lambda seconds: [write_trial(run.storage, row) for row in _two_seeds(3)])
    assert main(["report", run.storage.location, "--watch"]) == 0
    assert re.findall(r"(\d) trials: wrote", capsys.readouterr().out) == ["2", "3"]


def test_watching_ends_with_a_search_that_ended_early(open_rows, monkeypatch, capsys):
    run = open_rows(make_rows(2), trials=9)
    facts = {**run.facts, "sessions": [{"host": platform.node()}]}
    run.storage.write_bytes("settings.json", json.dumps(facts).encode())
    lock = DriverLock(run.storage)
    looks = iter([lock.release])
    monkeypatch.setattr(time, "sleep", lambda seconds: next(looks)())
    assert main(["report", run.storage.location, "--watch"]) == 0
    assert capsys.readouterr().out.count("2 trials: wrote") == 2
    assert b"The search is running" not in run.storage.read_bytes("report.html")


def test_a_run_without_a_finished_trial_is_refused(open_rows, capsys):
    run = open_rows([])
    assert main(["report", run.storage.location]) == 2
    assert "at least one finished trial" in capsys.readouterr().err
    with pytest.raises(ConfigError):
        write_report(run)

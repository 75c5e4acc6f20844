"""What the command line says before any command runs."""

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import click
import pytest
from archive_maker import make_rows, make_run

from hpsearch.cli import COMMANDS, hpsearch, main
from hpsearch.settings import SearchSettings


def command_named(name):
    return hpsearch.get_command(click.Context(hpsearch), name)


def test_a_bare_call_shows_the_help_line_by_line(capsys):
    assert main([]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("Usage: hpsearch")
    assert any(line.startswith("  pick ") for line in lines)


def test_the_help_of_a_search_states_every_default_that_is_a_number():
    helps = {option.name: option.help for option in command_named("search").params if isinstance(option, click.Option)}
    numbers = {
        field.name: field.default
        for field in dataclasses.fields(SearchSettings)
        if isinstance(field.default, int | float) and not isinstance(field.default, bool)
    }
    assert {"trials", "gpus_per_trial", "seed"} <= set(numbers)
    for name, default in numbers.items():
        assert helps[name].endswith(f"[default: {default}]"), name
    assert "[default" not in helps["resume"]


@pytest.mark.parametrize("name", COMMANDS)
def test_options_that_may_be_given_again_say_so(name):
    for option in command_named(name).params:
        if isinstance(option, click.Option) and option.multiple:
            assert "repeatable" in option.help, option.opts


@pytest.fixture
def place(tmp_path):
    make_run(tmp_path / "run", make_rows(20))
    return str(tmp_path / "run")


def _call(arguments, stdout):
    command = [sys.executable, "-c", "from hpsearch.cli import entry; entry()", *arguments]
    return subprocess.run(command, stdout=stdout, stderr=subprocess.PIPE, text=True, check=False, timeout=120)


@pytest.mark.parametrize("command", [["status"], ["pick", "--knee"]])
def test_a_reader_that_has_read_enough_is_no_failure(command, place):
    read, write = os.pipe()
    os.close(read)
    done = _call([*command, place], write)
    os.close(write)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_search_whose_reader_went_away_says_how_it_goes_on():
    read, write = os.pipe()
    os.close(read)
    done = _call(["search", "--dry-run"], write)
    os.close(write)
    assert done.returncode == 1
    assert "go on with --resume" in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_an_output_on_a_full_disk_is_one_line(place):
    with open("/dev/full", "w") as full:  # noqa: PTH123  a device
        done = _call(["status", place], full)
    assert done.returncode == 1
    assert "No space left on device; check the rights and the free space" in done.stderr
    assert done.stderr.count("\n") == 1

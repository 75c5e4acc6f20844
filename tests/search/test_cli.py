"""What the command line says before any command runs."""

import dataclasses

import click
import pytest

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

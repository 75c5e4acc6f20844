"""`hpsearch search`: search a space for networks that are accurate and cheap."""

import dataclasses
import os
from typing import Any, Literal, get_args, get_origin, get_type_hints

import click
from rich.console import Console
from rich.markup import escape

from hpsearch.settings import RUNNER, SearchSettings, resolve

SMOKE = ("epochs=5", "n_train=512")
"""What makes a trial tiny, in any space; what the user sets counts more."""

FLAGS = {"pins": "--set", "resume": "--resume"}


def _type(hint: Any) -> Any:
    if get_origin(hint) is Literal:
        return click.Choice(get_args(hint))
    inner = [option for option in get_args(hint) if option is not type(None)]
    return _type(inner[0]) if inner else {int: click.INT, float: click.FLOAT}.get(hint, click.STRING)


def _shown_default(default: Any) -> str:
    is_absent = default is False or default in (None, (), "")  # 0 is a default as well
    return "" if is_absent else f" [default: {default}]"


def options(function: Any) -> Any:
    """Give a command one option per field of the settings, with the field's meaning as its help."""
    hints = get_type_hints(SearchSettings, include_extras=True)
    for field in reversed(dataclasses.fields(SearchSettings)):
        flag = FLAGS.get(field.name, "--" + field.name.replace("_", "-"))
        shown = hints[field.name].__metadata__[0] + _shown_default(field.default)
        kind = hints[field.name].__origin__
        if field.name == "pins":
            option = click.option(flag, field.name, multiple=True, metavar="KEY=VALUE", help=shown)
        elif field.name == "halving":
            option = click.option("--halving/--no-halving", field.name, default=None, help=shown)
        elif kind is bool:
            option = click.option(flag, field.name, is_flag=True, default=None, help=shown)
        else:
            option = click.option(flag, field.name, type=_type(kind), default=None, help=shown)
        function = option(function)
    return function


@click.command("search")
@options
@click.option("--dry-run", is_flag=True, help="Show settings, space and cost; start nothing.")
@click.option("--smoke-test", is_flag=True, help="Two tiny trials in under a minute, to see that all parts work.")
def command(dry_run: bool, smoke_test: bool, **given: Any) -> int:
    """Search a space for networks that are accurate and cheap.

    Options come from the command line, else from HPSEARCH_* variables, else from defaults; what was chosen, and
    whence, is printed first.
    """
    if smoke_test:
        given["trials"] = 2
    return execute(given, dry_run=dry_run, is_smoke_test=smoke_test)


def execute(given: dict[str, Any], *, dry_run: bool = False, is_smoke_test: bool = False, runner: str = RUNNER) -> int:
    """Resolve settings, print them, and search; `runner` is what a worker runs, as module:attribute."""
    settings, origins = resolve(given, os.environ)
    if is_smoke_test:
        settings = dataclasses.replace(settings, pins=(*SMOKE, *settings.pins))
        origins["pins"] = "--smoke-test" if origins["pins"] == "default" else f"--smoke-test, {origins['pins']}"
    show_settings(Console(), settings, origins)
    # what follows is text of spaces, trials and errors: a bracket in it is no markup
    console = Console(markup=False)
    from hpsearch.start import dry, run

    if dry_run:
        return dry(settings, console, is_smoke_test=is_smoke_test)
    return run(settings, console, runner, is_smoke_test=is_smoke_test)


def show_settings(console: Console, settings: SearchSettings, origins: dict[str, str]) -> None:
    """Print what was chosen, and whence."""
    for name, value in dataclasses.asdict(settings).items():
        if value not in (None, ()) or origins[name] != "default":
            shown = escape(" ".join(value) if isinstance(value, tuple) else str(value))
            label = "set" if name == "pins" else name.replace("_", "-")
            console.print(f"{label:<16} {shown}  [dim]({origins[name]})[/dim]", highlight=False, soft_wrap=True)

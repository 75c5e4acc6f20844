"""The command line: one group, one file per command under `hpsearch.commands`, loaded only when called.

A command's module is imported at its first use, so that `hpsearch pick` on a laptop loads neither ray nor optuna
nor torch.
"""

import contextlib
import importlib
import importlib.util
import logging
import os
import sys

import click

from greenprune_core.errors import ConfigError, GreenpruneError
from hpsearch.visible import visible

COMMANDS = ("search", "status", "report", "pick", "measure", "controls", "calibrate", "compare", "doctor")

EXIT_FAILED = 1
EXIT_USER_ERROR = 2


class ReaderGoneError(Exception):
    """The reader of our output (head, less) went away."""


class LazyGroup(click.Group):
    """A click group whose commands live in `hpsearch.commands.<name>` as a function `command`."""

    def invoke(self, ctx: click.Context) -> object:
        """Run a command; a broken pipe is told apart here, as click and rich make of it a silent failure."""
        try:
            return super().invoke(ctx)
        except (BrokenPipeError, SystemExit) as error:
            if isinstance(error, BrokenPipeError) or isinstance(error.__context__, BrokenPipeError):
                raise ReaderGoneError from error
            raise

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of the commands, none of them loaded."""
        return [name for name in COMMANDS if importlib.util.find_spec(f"hpsearch.commands.{name}")]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Load one command."""
        if cmd_name not in self.list_commands(ctx):
            return None
        command: click.Command = importlib.import_module(f"hpsearch.commands.{cmd_name}").command
        return command


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
@click.version_option(package_name="greenprune")
@click.option("--verbose", is_flag=True, help="Show log messages of all parts, and the traceback of an error.")
def hpsearch(verbose: bool) -> None:
    """Search networks pruned in one pass: accuracy against energy."""
    logging.basicConfig(
        level=logging.INFO if verbose else logging.WARNING, format="%(levelname)s %(name)s: %(message)s"
    )


def main(arguments: list[str] | None = None) -> int:
    """Run the command line and return its exit code: 0 done, 1 failed, 2 the user's input, 3 nothing fits.

    A command returns None or an exit code. `ConfigError` becomes one line on standard error and code 2.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        code = hpsearch.main(args=arguments, prog_name="hpsearch", standalone_mode=False)
    except click.exceptions.Exit as exit_:
        return exit_.exit_code
    except click.ClickException as error:
        if arguments:
            _say(error.format_message())
        else:
            click.echo(error.format_message(), err=True)  # a bare call: the message is the help, and keeps its lines
        return EXIT_USER_ERROR
    except click.Abort:
        _say("interrupted")
        return EXIT_FAILED
    except ConfigError as error:
        if "--verbose" in arguments:
            raise
        _say(str(error))
        return EXIT_USER_ERROR
    except GreenpruneError as error:
        if "--verbose" in arguments:
            raise
        _say(str(error))
        return EXIT_FAILED
    except ReaderGoneError:
        _drop_output()
        if "search" not in arguments[:2]:
            return 0  # it has read what it wanted
        _say("the reader of the search's output went away, and the search has stopped; go on with --resume")
        return EXIT_FAILED
    except OSError as error:
        if "--verbose" in arguments:
            raise
        _drop_output()
        _say(f"files and output must be readable and writable, but {error}; check the rights and the free space")
        return EXIT_FAILED
    return int(code or 0)


def _drop_output() -> None:
    """Keep the interpreter from flushing, at its end, into an output that takes nothing any more."""
    with contextlib.suppress(OSError, AttributeError):  # the latter where there never was an output
        sys.stdout.flush()
        return
    with contextlib.suppress(OSError, AttributeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _say(message: str) -> None:
    """Print an error as one line, whatever line breaks it holds."""
    click.echo("hpsearch: " + visible(" ".join(message.split())), err=True)


def entry() -> None:
    """Console script `hpsearch`."""
    sys.exit(main())

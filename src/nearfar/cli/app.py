"""The application: its commands, and how a failure is told."""

import errno
import logging
import sys
import traceback
import warnings
from collections.abc import Sequence
from contextlib import suppress
from typing import Annotated

import typer

import nearfar
from nearfar.errors import ConfigError, NearfarError, Told

app = typer.Typer(
    name="nearfar",
    help="Similar things near, different things far: train, measure and report embeddings of images.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def run(arguments: Sequence[str]) -> int:
    """Run one command.

    Returns:
        0; 1 when it failed; 2 when it was asked wrongly.
    """
    from nearfar.cli import bench, caffe, compare, images, lists, mine, runs  # noqa: F401 (each adds its commands to the app)

    arguments = list(arguments)
    debug = "--debug" in arguments
    if debug:
        arguments.remove("--debug")
    logging.basicConfig(level=logging.INFO if debug else logging.WARNING, format="%(message)s")
    if not debug:
        warnings.showwarning = _tell_warning
    try:
        return typer.main.get_command(app).main(arguments, prog_name="nearfar", standalone_mode=False) or 0
    except Exception as error:
        if debug:
            traceback.print_exc()
        return tell(error)
    except KeyboardInterrupt as stop:
        return tell(stop)


def tell(error: BaseException) -> int:
    """Say what went wrong in one sentence and return the exit status."""
    match error:
        case Told():
            return 1
        case KeyboardInterrupt():
            return _say(str(error) or "stopped.", 1)
        case typer.Exit():
            return error.exit_code
        case typer.TyperException():
            return _say(error.format_message(), 2)
        case ConfigError():
            return _say(str(error), 2)
        case NearfarError():
            return _say(str(error), 1)
        case OSError(errno=errno.ENOSPC):
            place = f" ({error.filename})" if error.filename else ""
            return _say(f"no space is left on the device{place}; free some and try again.", 1)
        case OSError():
            return _say(f"{error.strerror or error}{f': {error.filename}' if error.filename else ''}.", 1)
        case _:
            return _say(
                f"this should not happen: {type(error).__name__}: {error}; "
                "run it again with --debug and report what it shows.",
                1,
            )


def _say(sentence: str, status: int) -> int:
    with suppress(OSError):  # of a terminal that was closed
        print(f"nearfar: {sentence}", file=sys.stderr)
    return status


def _tell_warning(message: Warning | str, *_: object, **__: object) -> None:
    print(f"nearfar: {message}", file=sys.stderr)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"nearfar {nearfar.__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Similar things near, different things far: train, measure and report embeddings of images.

    Any command takes --debug, which shows the traceback of an error.
    """

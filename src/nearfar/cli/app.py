"""The application: its commands, and how a failure is told."""

import errno
import logging
import re
import sys
import traceback
import warnings
from collections.abc import Sequence
from contextlib import suppress
from typing import Annotated

import typer

import nearfar
from nearfar.cli import streams
from nearfar.errors import ConfigError, NearfarError, Told
from nearfar.printable import printable, shortened

app = typer.Typer(
    name="nearfar",
    help="Similar things near, different things far: train, measure and report embeddings of images.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

# Longer than any path: a value of the user's that would bury the sentence.
ENDLESS = re.compile(r"\S{300,}")
LONGEST = 4000


def run(arguments: Sequence[str]) -> int:
    """Run one command.

    Returns:
        0; 1 when it failed; 2 when it was asked wrongly.
    """
    streams.prepare()
    arguments = list(arguments)
    debug = "--debug" in arguments
    if debug:
        arguments.remove("--debug")
    try:
        with Notices(debug):
            code = _command(arguments)
        streams.flush()
        return code
    except BrokenPipeError:  # `nearfar losses | head`: who read has read enough
        streams.mute()
        return 1
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else 1
    except Exception as error:
        if debug:
            traceback.print_exc()
        return _told(error)
    except KeyboardInterrupt as stop:
        return _told(stop)


def _command(arguments: list[str]) -> int:
    from nearfar.cli import bench, caffe, compare, completion, images, lists, mine, runs  # noqa: F401 (each adds its commands)

    with completion.words_joined():
        return typer.main.get_command(app).main(arguments, prog_name="nearfar", standalone_mode=False) or 0


def _told(error: BaseException) -> int:
    try:
        code = tell(error)
        streams.flush()
    except OSError:
        streams.mute()
        return 1
    return code


def tell(error: BaseException) -> int:
    """Say what went wrong in one sentence and return the exit status."""
    match error:
        case Told():
            return 1
        case typer.Exit():
            return error.exit_code
        case KeyboardInterrupt() | typer.Abort():
            return _say(str(error) or "stopped.", 1)
        case ConfigError():
            return _say(str(error), 2)
        case _ if callable(words := getattr(error, "format_message", None)):  # typer's: asked wrongly
            return _say(words(), 2)
        case _:
            return _say(_sentence(error), 1)


def _sentence(error: BaseException) -> str:
    match error:
        case NearfarError():
            return str(error)
        case OSError(errno=errno.ENOSPC):
            place = f" ({error.filename})" if error.filename else ""
            return f"no space is left on the device{place}; free some and try again."
        case OSError():
            return f"{error.strerror or error}{f': {error.filename}' if error.filename else ''}."
        case MemoryError():
            return "there is not enough memory for this; close other programs or do less at once."
        case RecursionError():
            return "what was given is nested too deeply to be read; give it flatter."
        case UnicodeError():
            return f"a name or a text is not UTF-8 ({error}); rename or convert it."
    return (
        f"this should not happen: {type(error).__name__}: {error}; "
        "run it again with --debug and report what it shows."
    )


def _say(sentence: str, status: int) -> int:
    if sentence.strip():
        with suppress(OSError):  # of a terminal that was closed
            print(f"nearfar: {safe(sentence)}", file=sys.stderr)
    return status


def safe(sentence: str) -> str:
    """Return a sentence that shows what names hold and does not obey it, and that no value makes endless."""
    words = ENDLESS.sub(lambda found: shortened(found[0]), sentence)
    if len(words) > LONGEST:
        words = shortened(words, LONGEST)
    return printable(words, keep="\n")


class Notices(logging.Handler):
    """While a command runs, prints what the library logs and warns of, each notice once.

    Args:
        debug: print also what is of interest to a developer alone.
    """

    def __init__(self, debug: bool) -> None:
        super().__init__(logging.INFO if debug else logging.WARNING)
        self.debug = debug
        self._told: set[str] = set()

    def __enter__(self) -> "Notices":
        root = logging.getLogger()
        self._before = root.level, warnings.showwarning
        root.addHandler(self)
        root.setLevel(min(root.level, self.level))
        if not self.debug:
            warnings.showwarning = self.show_warning
        return self

    def __exit__(self, *_: object) -> None:
        root = logging.getLogger()
        root.removeHandler(self)
        level, warnings.showwarning = self._before
        root.setLevel(level)

    def emit(self, record: logging.LogRecord) -> None:
        self._tell(record.getMessage())

    def show_warning(self, message: Warning | str, *_: object, **__: object) -> None:
        self._tell(f"nearfar: {message}")

    def _tell(self, text: str) -> None:
        if text not in self._told:
            self._told.add(text)
            print(safe(text), file=sys.stderr)


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

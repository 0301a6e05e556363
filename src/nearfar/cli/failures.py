"""How a failure is told: in one sentence, with an exit status."""

import errno
import re
import sys
from contextlib import suppress

import typer

from nearfar.errors import ConfigError, NearfarError, Told
from nearfar.printable import printable, shortened

# Longer than any path: a value of the user's that would bury the sentence.
ENDLESS = re.compile(r"\S{300,}")
LONGEST = 4000


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

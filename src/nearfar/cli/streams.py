"""Standard output and error as they are: closed, gone, or of a code page that lacks half of our signs."""

import codecs
import contextlib
import os
import sys
import unicodedata

# What stands for a sign that the terminal's code page lacks.
SIGNS = {
    "→": "->", "←": "<-", "≥": ">=", "≤": "<=", "≠": "!=", "≈": "~", "−": "-", "–": "-", "—": "-",
    "…": "...", "✓": "ok", "✗": "--", "×": "x", "·": "*", "∈": " in ", "∞": "inf", "√": "sqrt", "∂": "d",
    "‖": "||", "⌊": "floor(", "⌋": ")", "“": '"', "”": '"', "‘": "'", "’": "'", "•": "*",
    "━": "-", "─": "-", "│": "|", "╭": "+", "╮": "+", "╰": "+", "╯": "+",
}  # fmt: skip
HANDLER = "nearfar.plain"


def plain(error: UnicodeError) -> tuple[str, int]:
    """Write what an encoding lacks in letters that every one has."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return "".join(map(_plain, error.object[error.start : error.end])), error.end


def _plain(letter: str) -> str:
    if letter in SIGNS:
        return SIGNS[letter]
    greek = unicodedata.name(letter, "").split()
    if greek[:1] == ["GREEK"] and "LETTER" in greek and len(greek) == 4:
        return greek[3].lower() if greek[1] == "SMALL" else greek[3].capitalize()
    base = unicodedata.normalize("NFKD", letter).encode("ascii", "ignore").decode()
    return base or letter.encode("ascii", "backslashreplace").decode()


def prepare() -> None:
    """Make both streams fit to be written to, whatever is behind them."""
    codecs.register_error(HANDLER, plain)
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:  # closed by who called, or a program without a console
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115 (open to the end)
        elif hasattr(stream, "reconfigure"):
            stream.reconfigure(errors=HANDLER)


def flush() -> None:
    """Write out what is held back, so that a failure is told and not met while Python shuts down."""
    sys.stdout.flush()
    sys.stderr.flush()


def mute() -> None:
    """Write to nowhere from now on: who read has gone."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError, AttributeError):
            os.dup2(nowhere, stream.fileno())
    os.close(nowhere)


def can_write(text: str) -> bool:
    """Whether standard output can write all of a text as it is."""
    try:
        text.encode(getattr(sys.stdout, "encoding", None) or "utf-8")
    except UnicodeEncodeError:
        return False
    return True

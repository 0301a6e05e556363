"""What others named, made safe to print: no terminal escapes, no broken characters, no pages of text."""

import re
import unicodedata

# Turn the direction of what follows: a name may not rearrange the sentence around it.
TURNS = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
# Control characters, halves of surrogate pairs (bytes of a file name that are not UTF-8), line separators.
UNPRINTABLE = frozenset(("Cc", "Cs", "Zl", "Zp"))
PLAIN = re.compile(r"[\x20-\x7e]*")
MOST = 100


def printable(text: object, *, keep: str = "") -> str:
    r"""Return ``text`` with what a terminal would obey or could not show written as an escape.

    >>> printable("a\x1b[31mb\n")
    'a\\x1b[31mb\\n'

    Args:
        text: anything; ``str()`` is taken of what is no text.
        keep: characters left as they are, such as a line's end in a text of several lines.
    """
    words = str(text)
    if PLAIN.fullmatch(words):
        return words
    return "".join(
        letter if letter in keep or not _is_unprintable(letter) else _escaped(letter) for letter in words
    )


def shortened(text: object, most: int = MOST) -> str:
    """Return ``text`` printable, its middle left out where it is longer than ``most`` characters.

    >>> shortened("abcdefghij", 7)
    'abc…hij'
    """
    words = str(text)
    if len(words) > most:
        tail = (most - 1) // 2
        words = f"{words[: most - 1 - tail]}…{words[len(words) - tail :]}"
    return printable(words)


def written(text: str) -> bytes:
    """Return a text of HTML, JSON or Markdown as UTF-8; what a name holds that is none stays as its escape.

    Of a half of a surrogate pair the escape is JSON's own, so JSON stays what it was.
    """
    return text.encode("utf-8", "backslashreplace")


def quoted(value: object, most: int = MOST) -> str:
    """Return ``repr(value)``, printable and at most ``most`` characters long, for a sentence about a value.

    What cannot be written at all, such as lists nested without end, is named by its type.
    """
    try:
        if isinstance(value, int) and value.bit_length() > 4 * most:
            return f"a whole number of {value.bit_length()} bits"  # Python refuses to write it in digits
        return shortened(repr(value), most)
    except (RecursionError, ValueError):
        return f"a {type(value).__name__} that cannot be written down"


def _is_unprintable(letter: str) -> bool:
    return letter in TURNS or unicodedata.category(letter) in UNPRINTABLE


def _escaped(letter: str) -> str:
    if "\udc80" <= letter <= "\udcff":  # how Python reads a byte that is not UTF-8
        return f"\\x{ord(letter) - 0xDC00:02x}"
    return repr(letter)[1:-1] if letter.isascii() or ord(letter) > 0xFF else f"\\x{ord(letter):02x}"

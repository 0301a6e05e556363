"""From protobuf text to tokens: words, numbers, quoted texts, single characters."""

import re
from bisect import bisect_right
from typing import Literal, NamedTuple

from nearfar.caffe.message import PrototxtError

Kind = Literal["word", "number", "text", "mark", "end"]

# The quantifiers ending in + give nothing back: a failed match costs no second look at the same characters.
_skipped = re.compile(r"(?:\s++|#[^\n\r]*+)*+")
_token = re.compile(
    r"""
      (?P<word>[A-Za-z_][A-Za-z0-9_]*+)
    | (?P<number>0[xX][0-9a-fA-F]++|(?:[0-9]++\.?[0-9]*+|\.[0-9]++)(?:[eE][+-]?[0-9]++)?[fF]?)
    | (?P<text>"[^"\\\n\r]*+(?:\\[^\n\r][^"\\\n\r]*+)*+"|'[^'\\\n\r]*+(?:\\[^\n\r][^'\\\n\r]*+)*+')
    | (?P<mark>.)
    """,
    re.VERBOSE | re.DOTALL,
)
_escape = re.compile(
    r"\\(?:(?P<octal>[0-7]{1,3})|[xX](?P<hex>[0-9a-fA-F]{1,2})|u(?P<short>[0-9a-fA-F]{4})"
    r"|U(?P<long>[0-9a-fA-F]{8})|(?P<letter>.))",
    re.DOTALL,
)
_letters = dict(zip("abfnrtv?\\'\"", "\a\b\f\n\r\t\v?\\'\"", strict=True))
_break = re.compile(r"\r\n|\r|\n")
# Blanks are spelled out, since \s would run on over empty lines, again from each line.
_declaration = re.compile(
    r"""[ \t]*+(?:
      (?:message|enum|extend|service)[ \t]+[\w.]+[ \t]*+(?:\{|[\r\n]|$)
    | (?:optional|required|repeated)[ \t]+[\w.]+[ \t]+\w
    | syntax[ \t]*= | package[ \t]+[\w.]+[ \t]*; | import[ \t]+"
    )""",
    re.VERBOSE,
)
SCHEMA = (
    "this looks like a schema (.proto), which says what fields there are and not what they hold; give the "
    "definition of a net or a solver (.prototxt)."
)


class Token(NamedTuple):
    """A piece of text and the offset at which it begins."""

    kind: Kind
    text: str
    at: int


class Tokens:
    """The tokens of a text, one ahead in ``next``.

    Args:
        text: protobuf text.
        source: what errors call it.
    """

    def __init__(self, text: str, source: str) -> None:
        self.source = source
        self._text = text
        self._lines = [0, *(found.end() for found in _break.finditer(text))]
        self.next = self._read(0)

    def take(self) -> Token:
        """Return the next token and go past it."""
        token = self.next
        self.next = self._read(token.at + len(token.text))
        return token

    def place(self, at: int) -> tuple[int, int]:
        """Return line and column of an offset, both from 1."""
        line = bisect_right(self._lines, at)
        return line, at - self._lines[line - 1] + 1

    def error(self, at: int, text: str) -> PrototxtError:
        """Return an error that begins with its place; in a schema, it says that this is one."""
        line, column = self.place(at)
        if self._declares(line):
            text = SCHEMA
        return PrototxtError(f"{self.source}:{line}:{column}: {text}")

    def unexpected(self, token: Token, expected: str) -> PrototxtError:
        """Return an error that says what was found and what was expected."""
        if token.text in ("'", '"'):
            return self.error(token.at, f"the text that begins here has no closing {token.text} on its line.")
        hint = ""
        if token.kind == "mark" and token.text == "/":
            hint = "; a comment begins with '#'"
        elif token.kind == "mark" and not token.text.isascii():
            hint = " (only quoted texts and comments may hold such characters)"
        return self.error(token.at, f"found {shown(token)}, expected {expected}{hint}.")

    def string(self, token: Token) -> str:
        """Return what a quoted text holds. Escapes give bytes, so that "\\344\\270\\255" is 中."""
        body = token.text[1:-1]
        if "\\" not in body:
            return body
        held, done = bytearray(), 0
        for found in _escape.finditer(body):
            held += body[done : found.start()].encode("utf-8", "surrogatepass")
            held += self._unescaped(found, token.at + 1 + found.start())
            done = found.end()
        held += body[done:].encode("utf-8", "surrogatepass")
        try:
            return held.decode()
        except UnicodeDecodeError:
            raise self.error(token.at, "the escapes of this text give no UTF-8.") from None

    def number(self, token: Token) -> int | float:
        """Return the value of a number: 017 and 0x1F are whole, 1.f and 1e3 are not."""
        text = token.text
        after = self._text[token.at + len(text) : token.at + len(text) + 1]
        if after in {".", "_"} or (after.isascii() and after.isalnum()):
            raise self.error(
                token.at, f"the number {text[:40]} runs into {after!r}; put a space between them."
            )
        if text.lower().startswith("0x"):
            return self._in_64_bits(token, 16)
        if not text.isdecimal():
            return float(text.rstrip("fF"))
        if text[0] != "0" or len(text) == 1:
            return self._in_64_bits(token, 10)
        if text.strip("01234567"):
            raise self.error(
                token.at, f"{text[:40]} begins with 0, which makes it octal, but has the digit 8 or 9."
            )
        return self._in_64_bits(token, 8)

    def _in_64_bits(self, token: Token, base: int) -> int:
        # Python refuses to read thousands of digits, and would be slow at it.
        value = int(token.text, base) if len(token.text) <= 24 else 2**64
        if value >= 2**64:
            raise self.error(token.at, f"{token.text[:40]} is too large for a whole number of 64 bits.")
        return value

    def _unescaped(self, found: re.Match[str], at: int) -> bytes:
        if found["letter"]:
            if found["letter"] not in _letters:
                raise self.error(at, f"there is no escape {found[0]}; a backslash itself is written '\\\\'.")
            return _letters[found["letter"]].encode()
        if found["octal"] or found["hex"]:
            byte = int(found["octal"], 8) if found["octal"] else int(found["hex"], 16)
            if byte > 255:
                raise self.error(at, f"the escape {found[0]} is larger than a byte, \\377.")
            return bytes([byte])
        code = int(found["short"] or found["long"], 16)
        if code > 0x10FFFF or 0xD800 <= code < 0xE000:
            raise self.error(at, f"the escape {found[0]} is no character.")
        return chr(code).encode()

    def _read(self, at: int) -> Token:
        skipped = _skipped.match(self._text, at)
        at = skipped.end() if skipped else at
        found = _token.match(self._text, at)
        if found is None:
            return Token("end", "", len(self._text))
        kind: Kind = found.lastgroup  # type: ignore[assignment]
        return Token(kind, found[0], at)

    def _declares(self, line: int) -> bool:
        """Whether a line declares fields, or is a comment of a schema that does so further on."""
        end = self._lines[line] if line < len(self._lines) else len(self._text)
        text = self._text[self._lines[line - 1] : end]
        if text.lstrip().startswith(("//", "/*")):
            return any(_declaration.match(self._text, start) for start in self._lines)
        return _declaration.match(text) is not None


def shown(token: Token) -> str:
    """Return a token for an error; a long one is cut."""
    if token.kind == "end":
        return "the end of the text"
    text = token.text if len(token.text) <= 40 else token.text[:40] + "…"
    if token.kind == "mark" and not (token.text.isascii() and token.text.isprintable()):
        return f"{token.text!r} (U+{ord(token.text):04X})"
    return text if token.kind == "text" else f"'{text}'"

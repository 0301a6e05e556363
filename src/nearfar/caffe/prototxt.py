"""Reads protobuf text format without a schema: Caffe's nets and solvers, and what was published of them.

net = nearfar.caffe.prototxt.read("train_val.prototxt")
for layer in net.messages("layer"):
    print(layer.line, layer.text("type", ""))

Grammar: https://protobuf.dev/reference/protobuf/textformat-spec/
"""

from pathlib import Path

from nearfar.caffe.message import Field, Message, PrototxtError, Value, Word
from nearfar.caffe.tokens import Token, Tokens

__all__ = ["Field", "Message", "PrototxtError", "Value", "Word", "parse", "read"]

DEPTH = 100  # protobuf's own limit
CLOSING = {"{": "}", "<": ">"}
INFINITE = {"inf": float("inf"), "infinity": float("inf"), "nan": float("nan")}


def read(path: str | Path) -> Message:
    """Read a file of protobuf text.

    Raises:
        PrototxtError: if it cannot be read or is no protobuf text in UTF-8.
    """
    try:
        held = Path(path).read_bytes()
    except FileNotFoundError:
        raise PrototxtError(f"{path}: there is no such file.") from None
    except OSError as error:
        raise PrototxtError(f"{path}: cannot be read: {error.strerror}.") from None
    try:
        text = held.decode()
    except UnicodeDecodeError as error:
        before = held[: error.start].decode()
        line, column = before.count("\n") + 1, len(before) - before.rfind("\n")
        raise PrototxtError(
            f"{path}:{line}:{column}: the byte 0x{held[error.start]:02X} is not UTF-8; save the text as "
            "UTF-8, its comments included (a .caffemodel or .binaryproto holds weights and is no text)."
        ) from None
    return parse(text, str(path))


def parse(text: str, source: str = "text") -> Message:
    """Read protobuf text.

    Args:
        text: fields, one after another; a byte order mark in front is skipped.
        source: what errors call the text, such as its file name.

    Raises:
        PrototxtError: with line and column, what was found and what was expected.
    """
    tokens = Tokens(text.removeprefix("\ufeff"), source)
    return Message(_fields(tokens, None, 0), 1, 1, source)


def _fields(tokens: Tokens, opened: Token | None, depth: int) -> list[Field]:
    """Read fields to the bracket that closes ``opened``, or to the end of the text."""
    if depth > DEPTH:
        raise tokens.error(tokens.next.at, f"messages are nested more than {DEPTH} deep.")
    fields: list[Field] = []
    closing = "" if opened is None else CLOSING[opened.text]
    while tokens.next.text != closing:
        fields += _field(tokens, opened, depth)
        if tokens.next.text in (",", ";"):
            tokens.take()
    tokens.take()
    return fields


def _field(tokens: Tokens, opened: Token | None, depth: int) -> list[Field]:
    """Read one name with its value, or with the values of its list."""
    place = tokens.place(tokens.next.at)
    called = _name(tokens, opened)
    colon = tokens.next.text == ":"
    if colon:
        tokens.take()
    elif tokens.next.text not in ("{", "<", "["):
        raise tokens.unexpected(tokens.next, f"':' or '{{' after '{called[:40]}'")
    if tokens.next.text != "[":
        return [Field(called, _value(tokens, place, depth), *place)]
    tokens.take()
    fields: list[Field] = []
    while tokens.next.text != "]" or fields:
        if not colon and tokens.next.text not in CLOSING:
            raise tokens.unexpected(tokens.next, f"'{{', since no ':' stands after '{called[:40]}'")
        fields.append(Field(called, _value(tokens, place, depth), *place))
        if tokens.next.text == "]":
            break
        if tokens.next.text != ",":
            raise tokens.unexpected(tokens.next, "',' or ']'")
        tokens.take()
    tokens.take()
    return fields


def _name(tokens: Tokens, opened: Token | None) -> str:
    token = tokens.take()
    if token.kind == "word":
        return token.text
    if token.text == "[":
        return f"[{_extension(tokens)}]"
    if token.text in (".", "…"):
        raise tokens.error(
            token.at,
            f"'{token.text}' stands for lines that were left out, and they cannot be guessed; put them in or "
            "take it out.",
        )
    expected = "the name of a field"
    if opened is not None:
        line, column = tokens.place(opened.at)
        expected += f", or the '{CLOSING[opened.text]}' for the '{opened.text}' at {line}:{column}"
    raise tokens.unexpected(token, expected)


def _extension(tokens: Tokens) -> str:
    """Read a dotted name, perhaps after a domain (``type.googleapis.com/a.b``), to its ']'."""
    parts: list[str] = []
    while True:
        word = tokens.take()
        if word.kind != "word":
            raise tokens.unexpected(word, "the dotted name of an extension")
        mark = tokens.take()
        parts += (word.text, mark.text)
        if mark.text == "]":
            return "".join(parts[:-1])
        if mark.text not in (".", "/"):
            raise tokens.unexpected(mark, "'.' or ']' in the name of an extension")


def _value(tokens: Tokens, place: tuple[int, int], depth: int) -> Value:
    token = tokens.take()
    if token.text in CLOSING:
        return Message(_fields(tokens, token, depth + 1), *place, tokens.source)
    if token.kind == "text":
        parts = [tokens.string(token)]
        while tokens.next.kind == "text":
            parts.append(tokens.string(tokens.take()))
        return "".join(parts)
    if token.kind == "number":
        return tokens.number(token)
    if token.text == "-":
        return -_unsigned(tokens)
    if token.kind != "word":
        raise tokens.unexpected(token, "a value")
    if token.text in ("true", "false"):
        return token.text == "true"
    return INFINITE.get(token.text.lower(), Word(token.text))


def _unsigned(tokens: Tokens) -> int | float:
    token = tokens.take()
    if token.kind == "number":
        return tokens.number(token)
    if token.text.lower() not in INFINITE:
        raise tokens.unexpected(token, "a number after '-'")
    return INFINITE[token.text.lower()]

"""Whatever a message holds reads back equal, and whatever a text holds is read or refused with its own error."""

from contextlib import suppress
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from nearfar.caffe.prototxt import Field, Message, PrototxtError, Word, parse, read

NET = """\
name: "small"   # 小网络
layer {
  name: "norm" type: 'L2Normalize' bottom: "po" "ol" top: "norm"
}
layer <
  type: "NPairMultiClassLoss"
  bottom: "norm", bottom: "label";
  loss_weight: [1, 0.5, 0x1F, 017, -inf]
  npair_loss_param: { identsn: -0.0 ap_mining_region: GLOBAL }
  include [{ phase: TRAIN }, <>]
>
[a.b]: true
"""

WORDS = st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,8}", fullmatch=True)
ENUMS = WORDS.filter(lambda word: word.lower() not in ("true", "false", "inf", "infinity", "nan"))
NUMBERS = st.integers(-(2**64) + 1, 2**64 - 1) | st.floats(allow_nan=False)
SINGLE = st.text() | ENUMS.map(Word) | st.booleans() | NUMBERS
NAMES = WORDS | st.lists(WORDS, min_size=1, max_size=3).map(lambda parts: f"[{'.'.join(parts)}]")


def message_of(fields: list[tuple[str, Any]]) -> Message:
    return Message([Field(name, value) for name, value in fields])


MESSAGES = st.recursive(
    st.lists(st.tuples(NAMES, SINGLE), max_size=4).map(message_of),
    lambda inner: st.lists(st.tuples(NAMES, SINGLE | inner), max_size=4).map(message_of),
    max_leaves=20,
)


def quoted(text: str, draw: st.DataObject) -> str:
    """Write a text in either quotes, its characters plain or escaped, at times in two pieces."""
    mark = draw.draw(st.sampled_from("\"'"))
    done = ""
    for character in text:
        if character in "\\\n\r" or character == mark or draw.draw(st.integers(0, 7)) == 0:
            octal = "".join(f"\\{byte:03o}" for byte in character.encode())
            done += draw.draw(st.sampled_from([octal, f"\\U{ord(character):08x}"]))
        else:
            done += character
    return f"{mark}{done}{mark}" + draw.draw(st.sampled_from(["", " ''", '\n#\n""']))


def written(message: Message, draw: st.DataObject) -> str:
    """Write a message in one of the ways there are."""
    parts = []
    for field in message.fields:
        if isinstance(field.value, Message):
            opening, closing = draw.draw(st.sampled_from(["{}", "<>"]))
            colon = draw.draw(st.sampled_from(["", " ", ":", " : "]))
            parts.append(f"{field.name}{colon}{opening} {written(field.value, draw)}{closing}")
        elif isinstance(field.value, bool):
            parts.append(f"{field.name}: {str(field.value).lower()}")
        elif isinstance(field.value, Word):
            parts.append(f"{field.name}:{field.value}")
        elif isinstance(field.value, str):
            parts.append(f"{field.name}: {quoted(field.value, draw)}")
        else:
            before, after = draw.draw(st.sampled_from([("", ""), ("[", "]")]))
            parts.append(f"{field.name}: {before}{field.value!r}{after}")
        parts.append(draw.draw(st.sampled_from([" ", "\n", ", ", ";", " # 注 {\n"])))
    return "".join(parts)


def exactly(message: Message) -> list[Any]:
    """Names, types and all digits, without places: 1, 1.0, True and -0.0 are told apart."""
    return [
        (f.name, type(f.value), exactly(f.value) if isinstance(f.value, Message) else repr(f.value))
        for f in message.fields
    ]


@given(message=MESSAGES, draw=st.data())
def test_what_is_written_reads_back_equal(message: Message, draw: st.DataObject) -> None:
    found = parse(written(message, draw))
    assert found == message
    assert exactly(found) == exactly(message)


def refusal(text: str) -> PrototxtError | None:
    try:
        parse(text)
    except PrototxtError as error:
        return error
    return None


def read_or_refused(text: str) -> None:
    """Any other error leaves `parse` and fails the test."""
    error = refusal(text)
    if error is not None:
        assert "\n" not in str(error)
        line, column = map(int, str(error).split(":")[1:3])
        assert 1 <= line <= len(text) + 1
        assert 1 <= column <= len(text) + 1


PIECES = st.sampled_from(
    [
        *"{}<>[]:;,.-+=/#'\"\\ \n\r\t\0",
        *("a", "layer", "inf", "true", "message", "optional x y", "[a.b]", "//"),
        *("1", "0x", "017", "089", "1.f", "1e", "-0.0", '"x"', "'y'"),
        *(r"\x", r"\777", r"\ud800", "…", "中", "\ufeff", "\ud800"),
    ]
)
MISTAKES = st.tuples(st.integers(0, len(NET)), st.integers(0, 20), PIECES | st.text(max_size=3))


@given(st.text(max_size=200))
@example("\ud800")
@example("a: '\ud800\\n'")
def test_any_text(text: str) -> None:
    read_or_refused(text)


@given(st.lists(PIECES, max_size=60).map("".join))
def test_any_pieces(text: str) -> None:
    read_or_refused(text)


@given(st.lists(MISTAKES, max_size=4))
def test_a_net_with_mistakes(mistakes: list[tuple[int, int, str]]) -> None:
    text = NET
    for at, length, piece in mistakes:
        text = text[:at] + piece + text[at + length :]
    read_or_refused(text)


@given(st.binary(max_size=100))
def test_any_file(tmp_path_factory: pytest.TempPathFactory, held: bytes) -> None:
    file = tmp_path_factory.getbasetemp() / "any.prototxt"
    file.write_bytes(held)
    with suppress(PrototxtError):
        read(file)

"""The values of a definition are given in the kind that is asked for, or refused at their place."""

from collections.abc import Callable
from typing import Any

import pytest

from nearfar.caffe.prototxt import Field, Message, PrototxtError, Word, parse

TEXT = """\
size: 3  ratio: 0.5  name: "norm"  pool: MAX  on: true
size: 4
param { lr_mult: 1 }
param { lr_mult: 2 }
"""


def test_the_last_value_counts_and_all_can_be_had() -> None:
    message = parse(TEXT)
    assert (message.one("size"), message.one("none"), message.one("none", 7)) == (4, None, 7)
    assert message.all("size") == [3, 4]
    assert message.place("size") == Field("size", 4, 2, 1)
    assert (message.place("size").line, message.place("none")) == (2, None)
    assert [inner.number("lr_mult", 1.0) for inner in message.messages("param")] == [1, 2]
    assert [(inner.line, inner.column) for inner in message.messages("param")] == [(3, 1), (4, 1)]


def test_values_by_kind() -> None:
    message = parse(TEXT)
    assert (message.number("size", 0.0), message.number("ratio", 0.0)) == (4, 0.5)
    assert (message.whole("size", 0), message.text("name", ""), message.flag("on", False)) == (
        4,
        "norm",
        True,
    )
    assert message.word("pool", ("MAX", "AVE"), "AVE") == "MAX"
    assert type(message.word("pool", ("MAX", "AVE"), "AVE")) is str
    assert (message.numbers("size"), message.wholes("size"), message.texts("name")) == (
        [3, 4],
        [3, 4],
        ["norm"],
    )
    empty = parse("")
    assert (empty.number("a", None), empty.whole("a", 1), empty.text("a", "b")) == (None, 1, "b")
    assert (empty.flag("a", True), empty.word("a", ("B",), "B")) == (True, "B")
    assert (empty.numbers("a"), empty.wholes("a"), empty.texts("a"), empty.messages("a")) == ([], [], [], [])


@pytest.mark.parametrize(
    ("written", "value"),
    [*((w, True) for w in ("true", "True", "t", "1")), *((w, False) for w in ("false", "False", "f", "0"))],
)
def test_flags_as_protobuf_takes_them(written: str, value: bool) -> None:
    assert parse(f"a: {written}").flag("a", not value) is value


@pytest.mark.parametrize(
    ("text", "ask", "message"),
    [
        ("a: MAX", lambda m: m.number("a", 0), "1:1: a must be a number; found MAX."),
        ("a: true", lambda m: m.number("a", 0), "1:1: a must be a number; found true."),
        ("\n  a: '5\\n'", lambda m: m.number("a", 0), '2:3: a must be a number; found "5\\n".'),
        ("a: 1 a: {}", lambda m: m.numbers("a"), "1:6: a must be a number; found a message."),
        ("a: 1e3", lambda m: m.whole("a", 0), "1:1: a must be a whole number; found 1000.0."),
        ("a: false", lambda m: m.wholes("a"), "1:1: a must be a whole number; found false."),
        ("a: SGD", lambda m: m.text("a", ""), "1:1: a must be a text in quotes; found SGD."),
        ("a: 1", lambda m: m.texts("a"), "1:1: a must be a text in quotes; found 1."),
        ("a: 2", lambda m: m.flag("a", True), "1:1: a must be true or false; found 2."),
        ("a: 'true'", lambda m: m.flag("a", True), '1:1: a must be true or false; found "true".'),
        ("a: MXA", lambda m: m.word("a", ("MAX", "AVE"), "AVE"), "1:1: a must be one of MAX, AVE; found MXA. Did you mean 'MAX'?"),
        ("a: STOCHASTIC", lambda m: m.word("a", ("MAX", "AVE"), "AVE"), "1:1: a must be one of MAX, AVE; found STOCHASTIC."),
        ("a: 'MAX'", lambda m: m.word("a", ("MAX", "AVE"), "AVE"), '1:1: a must be one of MAX, AVE, without quotes; found "MAX".'),
        ("a: 0", lambda m: m.word("a", ("MAX", "AVE"), "AVE"), "1:1: a must be one of MAX, AVE, without quotes; found 0."),
        ("a {} a: 1", lambda m: m.messages("a"), "1:6: a must be a message in braces; found 1."),
        ("a: '" + "x" * 99 + "'", lambda m: m.number("a", 0), '1:1: a must be a number; found "' + "x" * 40 + '…".'),
    ],
)  # fmt: skip
def test_other_kinds_are_refused(text: str, ask: Callable[[Message], Any], message: str) -> None:
    with pytest.raises(PrototxtError) as caught:
        ask(parse(text, "net.prototxt"))
    assert str(caught.value) == f"net.prototxt:{message}"


def test_an_inner_message_knows_its_file() -> None:
    (inner,) = parse("layer {\n  top: LOSS\n}", "net.prototxt").messages("layer")
    with pytest.raises(PrototxtError, match=r"^net\.prototxt:2:3: top must be"):
        inner.text("top", "")
    assert str(inner.error("no.")) == "net.prototxt:1:1: no."
    assert str(inner.error("no.", inner.fields[0])) == "net.prototxt:2:3: no."


def test_unknown_fields() -> None:
    assert [field.name for field in parse("a: 1 [b.c]: 2 d {}").unknown({"a", "d"})] == ["[b.c]"]


def test_equal_is_what_says_the_same() -> None:
    assert parse("a: 1 b {}") == parse("\n a: 1\n b <>", "other")
    assert parse("a: 1 b: 2") != parse("b: 2 a: 1")
    assert parse("a: MAX").one("a") == Word("MAX")

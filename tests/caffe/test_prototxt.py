"""Protobuf text is read as protobuf does; what is no such text is told with its place."""

import math
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from nearfar.caffe.prototxt import Field, Message, PrototxtError, Word, parse, read

NET = """\
name: "small"   # 小网络
layer {
  name: "norm" type: 'L2Normalize'
  bottom: "pool" top: "norm"
}
layer <
  name: "loss"
  type: "NPairMultiClassLoss"
  bottom: "norm", bottom: "label";
  top: "loss"
  loss_weight: [1, 0.5, 0]
  npair_loss_param: {
    identsn: -0.0  # 对于绝对选择来说该项无效
    diffsn: -0.3
    ap_mining_region: GLOBAL
  }
  include { phase: TRAIN }
>
"""


def values(text: str) -> list[tuple[str, Any]]:
    return [(field.name, field.value) for field in parse(text).fields]


def fault(text: str) -> str:
    with pytest.raises(PrototxtError) as caught:
        parse(text, "net.prototxt")
    return str(caught.value)


def test_a_net() -> None:
    net = parse(NET)
    assert net.text("name", "") == "small"
    norm, loss = net.messages("layer")
    assert (norm.line, norm.column, loss.line) == (2, 1, 6)
    assert loss.texts("bottom") == ["norm", "label"]
    assert loss.numbers("loss_weight") == [1, 0.5, 0]
    (settings,) = loss.messages("npair_loss_param")
    assert math.copysign(1, settings.number("identsn", 1.0)) == -1
    assert settings.word("ap_mining_region", ("GLOBAL", "LOCAL"), "LOCAL") == "GLOBAL"
    assert settings.number("margin_ident", 0.25) == 0.25
    assert (settings.fields[1].line, settings.fields[1].column) == (14, 5)
    assert loss.messages("include") == [parse("phase: TRAIN")]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", []),
        ("# nothing", []),
        ("a: 1 b:2,c:3;d:4", [("a", 1), ("b", 2), ("c", 3), ("d", 4)]),
        ("a: 0 a: 017 a: 0x1F a: 0XaB", [("a", 0), ("a", 15), ("a", 31), ("a", 171)]),
        ("a: -7 a: - 7 a: -#\n7 a: -0x10", [("a", -7)] * 3 + [("a", -16)]),
        ("a: 18446744073709551615", [("a", 2**64 - 1)]),
        ("a: 1. a: .5 a: 1.f a: 1.5F a: 2f a: 1e3 a: 1E-3f a: 010.5", [("a", x) for x in (1.0, 0.5, 1.0, 1.5, 2.0, 1e3, 1e-3, 10.5)]),
        ("a: inf a: -Infinity", [("a", math.inf), ("a", -math.inf)]),
        ("a: true a: false", [("a", True), ("a", False)]),
        ("a: MAX a: _x9", [("a", Word("MAX")), ("a", Word("_x9"))]),
        ("a: \"x'y\" a: 'x\"y' a: \"\"", [("a", "x'y"), ("a", 'x"y'), ("a", "")]),
        ("a: 'one ' \"two\"\n  # and\n 'three'", [("a", "one twothree")]),
        (r"""a: "\a\b\f\n\r\t\v\?\\\'\"" """, [("a", "\a\b\f\n\r\t\v?\\'\"")]),
        (r"a: '\101\x41\X4a\u4e2d\U0001F600\0'", [("a", "AAJ中😀\0")]),
        (r"a: '\344\270\255'", [("a", "中")]),
        ("a: '中文 # no comment'", [("a", "中文 # no comment")]),
        ("a: [] b: [1] c: [X, Y_1]", [("b", 1), ("c", Word("X")), ("c", Word("Y_1"))]),
        ("a: ['x' 'y', \"z\"]", [("a", "xy"), ("a", "z")]),
        ("a {} b<> c: {} d: <>", [(name, Message([])) for name in "abcd"]),
        ("a: [{b: 1}, <c: 2>] a [{}]", [("a", Message([Field("b", 1)])), ("a", Message([Field("c", 2)])), ("a", Message([]))]),
        ("[a.b_1.c]: 3 [ type.googleapis.com / a.B ] {}", [("[a.b_1.c]", 3), ("[type.googleapis.com/a.B]", Message([]))]),
        ("\ufeffa: 1", [("a", 1)]),
        ("a: 1\r\nb: 2\rc: 3 # end\rd: 4", [("a", 1), ("b", 2), ("c", 3), ("d", 4)]),
        ("a:\u00a01\u3000b: 2", [("a", 1), ("b", 2)]),
        ("inf: 1 true: 2 nan { }", [("inf", 1), ("true", 2), ("nan", Message([]))]),
    ],
)  # fmt: skip
def test_values(text: str, expected: list[tuple[str, Any]]) -> None:
    found = values(text)
    assert found == expected
    assert [type(value) for _, value in found] == [type(value) for _, value in expected]


def test_not_a_number_is_a_number() -> None:
    assert all(isinstance(value, float) and math.isnan(value) for _, value in values("a: nan a: -NaN"))


SCHEMA = (
    "this looks like a schema (.proto), which says what fields there are and not what they hold; give the "
    "definition of a net or a solver (.prototxt)."
)
LEFT_OUT = "stands for lines that were left out, and they cannot be guessed; put them in or take it out."


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a", "1:2: found the end of the text, expected ':' or '{' after 'a'."),
        ("a b", "1:3: found 'b', expected ':' or '{' after 'a'."),
        ("lr = 0.1", "1:4: found '=', expected ':' or '{' after 'lr'."),
        ("a:\n", "2:1: found the end of the text, expected a value."),
        ("a: :", "1:4: found ':', expected a value."),
        ("a: -x", "1:5: found 'x', expected a number after '-'."),
        ("a: +1", "1:4: found '+', expected a value."),
        ("a {\n  b: 1\n", "3:1: found the end of the text, expected the name of a field, or the '}' for the '{' at 1:3."),
        ("a { b: 1 >", "1:10: found '>', expected the name of a field, or the '}' for the '{' at 1:3."),
        ("a: 1\n}", "2:1: found '}', expected the name of a field."),
        ("a: 1,,", "1:6: found ',', expected the name of a field."),
        ("\"a\": 1", "1:1: found \"a\", expected the name of a field."),
        ("a: [1 2]", "1:7: found '2', expected ',' or ']'."),
        ("a: [1,]", "1:7: found ']', expected a value."),
        ("a: [[1]]", "1:5: found '[', expected a value."),
        ("a [1]", "1:4: found '1', expected '{', since no ':' stands after 'a'."),
        ("[a.b: 1", "1:5: found ':', expected '.' or ']' in the name of an extension."),
        ("[a.]: 1", "1:4: found ']', expected the dotted name of an extension."),
        ("a: 'x", "1:4: the text that begins here has no closing ' on its line."),
        ("a: \"x\ny\"", "1:4: the text that begins here has no closing \" on its line."),
        (r"a: 'C:\data'", r"1:7: there is no escape \d; a backslash itself is written '\\'."),
        (r"a: '\777'", r"1:5: the escape \777 is larger than a byte, \377."),
        (r"a: '\ud800'", r"1:5: the escape \ud800 is no character."),
        (r"a: '\UFFFFFFFF'", r"1:5: the escape \UFFFFFFFF is no character."),
        (r"a: '\377'", "1:4: the escapes of this text give no UTF-8."),
        ("a: 1x", "1:4: the number 1 runs into 'x'; put a space between them."),
        ("a: 1.2.3", "1:4: the number 1.2 runs into '.'; put a space between them."),
        ("a: 089", "1:4: 089 begins with 0, which makes it octal, but has the digit 8 or 9."),
        ("a: 18446744073709551616", "1:4: 18446744073709551616 is too large for a whole number of 64 bits."),
        ("a：1", "1:2: found '：' (U+FF1A), expected ':' or '{' after 'a' (only quoted texts and comments may hold such characters)."),
        ("a: “x”", "1:4: found '“' (U+201C), expected a value (only quoted texts and comments may hold such characters)."),
        ("a: \0", "1:4: found '\\x00' (U+0000), expected a value."),
        ("// a net\na: 1", "1:1: found '/', expected the name of a field; a comment begins with '#'."),
        ("layer {\n}\n.\n.\n.\nlayer {\n}", f"3:1: '.' {LEFT_OUT}"),
        ("layer {\n  ...\n}", f"2:3: '.' {LEFT_OUT}"),
        ("…", f"1:1: '…' {LEFT_OUT}"),
        ("message LossParameter {\n  optional float margin = 1;\n}", f"1:9: {SCHEMA}"),
        ("# of a fork\n\noptional LossParameter loss_param = 147;", f"3:10: {SCHEMA}"),
        ("syntax = \"proto2\";", f"1:8: {SCHEMA}"),
        ("package caffe;", f"1:9: {SCHEMA}"),
        ("enum Phase {", f"1:6: {SCHEMA}"),
        ("// fields of a loss\n\n\n  repeated string bottom = 3;", f"1:1: {SCHEMA}"),
        ("layer {\n}\nmessage LossParameter\n{", f"3:9: {SCHEMA}"),
    ],
)  # fmt: skip
def test_faults_have_their_place(text: str, message: str) -> None:
    assert fault(text) == f"net.prototxt:{message}"


def test_nesting_has_a_limit() -> None:
    deepest = "a {" * 100 + "}" * 100
    assert parse(deepest).one("a") is not None
    for text in ("a {" * 101, "a { b: [<" * 51, "a {" * 100_000):
        assert fault(text).endswith(": messages are nested more than 100 deep.")


def test_long_values_are_cut_in_errors() -> None:
    for text in ("a" * 10**6, "a: 1 '" + "a" * 10**6 + "'", "a: " + "9" * 10**6, "a: 1" + "a" * 10**6):
        assert len(fault(text)) < 200


@pytest.mark.parametrize(
    "text",
    [
        "a:1," * 50_000,
        "a{}" * 60_000,
        "a: '" + r"\"" * 100_000 + "'",
        "a:" + "''" * 100_000,
        "#\n" * 100_000 + "/",
        "\n" * 200_000 + "/",
        "//" + "\n" * 200_000,
        "//" + "\toptional" * 20_000,
        "[a" + ".a" * 100_000,
        "a: [" + "1," * 100_000 + "1]",
        "a: " + "1" * 200_000 + ".5",
        "a: '" + "\\" * 200_000,
    ],
    ids=lambda text: repr(text[:12]),
)
def test_long_texts_take_time_in_proportion(text: str) -> None:
    """Each of these is read in well under a second; were it quadratic, it would take minutes."""
    with suppress(PrototxtError):
        parse(text)


def test_files(tmp_path: Path) -> None:
    file = tmp_path / "net.prototxt"
    file.write_bytes(b"\xef\xbb\xbf" + NET.replace("\n", "\r\n").encode())
    assert read(file) == parse(NET)
    assert read(str(file)).messages("layer")[1].line == 6


@pytest.mark.parametrize(
    ("held", "message"),
    [
        ("a: 1\nb: 2 # 中文".encode("gbk"), "net.prototxt:2:8: the byte 0xD6 is not UTF-8; save the text as UTF-8, its comments included"),
        ("a: 1".encode("utf-16"), "net.prototxt:1:1: the byte 0xFF is not UTF-8; "),
        (b"\x0a\x05small\x92\x06\xff", "net.prototxt:2:7: the byte 0x92 is not UTF-8; "),
        (b"a: 1\n\x00", "net.prototxt:2:1: found '\\x00' (U+0000), expected the name of a field."),
    ],
)  # fmt: skip
def test_files_that_are_no_text(tmp_path: Path, held: bytes, message: str) -> None:
    file = tmp_path / "net.prototxt"
    file.write_bytes(held)
    with pytest.raises(PrototxtError) as caught:
        read(file)
    assert str(caught.value).startswith(f"{tmp_path}/{message}")


def test_files_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(PrototxtError, match=r"none\.prototxt: there is no such file\.$"):
        read(tmp_path / "none.prototxt")
    with pytest.raises(PrototxtError, match=r"cannot be read: Is a directory\.$"):
        read(tmp_path)


def test_reading_needs_no_torch() -> None:
    code = "import sys, nearfar.caffe.prototxt, nearfar.caffe.solver; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"

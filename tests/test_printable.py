"""What is printed of names and values that others chose."""

import os
import sys
import unicodedata

import pytest

from nearfar.printable import printable, quoted, shortened


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("plain name.png", "plain name.png"),
        ("Käse 日本 😀 é", "Käse 日本 😀 é"),
        ("क्‍ष", "क्‍ष"),  # a joiner that its script needs
        ("\x1b[31mred\x1b[0m", r"\x1b[31mred\x1b[0m"),
        ("\x1b]0;title\x07", r"\x1b]0;title\x07"),
        ("\x9b31m", r"\x9b31m"),
        ("two\nlines\r\tand", r"two\nlines\r\tand"),
        ("\x7f\x00\x08", r"\x7f\x00\x08"),
        ("gpj.\u202eexe", r"gpj.\u202eexe"),
        ("\u2028\u2029", r"\u2028\u2029"),
        (os.fsdecode(b"ph\xffto"), r"ph\xffto"),
        ("\ud800", r"\ud800"),
        (17, "17"),
        ("", ""),
    ],
)
def test_names(name, shown):
    assert printable(name) == shown
    shown.encode("utf-8")


def test_every_character_can_be_written_and_moves_nothing():
    for code in [*range(0x3100), *range(0xD700, 0xE010), *range(0x3100, sys.maxunicode + 1, 97)]:
        shown = printable(chr(code))
        if shown != chr(code):
            assert shown.isascii()
            assert shown.isprintable()
        else:
            assert unicodedata.category(shown) not in {"Cc", "Cs", "Zl", "Zp"}


def test_lines_are_kept_where_asked():
    assert printable("a\nb\x1b", keep="\n") == "a\nb\\x1b"


def test_long_texts_lose_their_middle():
    assert shortened("x" * 100) == "x" * 100
    found = shortened("a" * 5000 + "b" * 5000)
    assert len(found) == 100
    assert found.startswith("aaa")
    assert found.endswith("bbb")
    assert "…" in found
    assert [len(shortened("abcdefghij", most)) for most in (3, 4, 9)] == [3, 4, 9]


def test_values_of_any_kind_are_short():
    nested: list = []
    for _ in range(100_000):
        nested = [nested]
    for value in (
        "y" * 10_000,
        10**5000,
        -(10**400),
        nested,
        {"a": ["\x1b"] * 1000},
        1e400,
        None,
        b"\xff" * 500,
    ):
        assert len(quoted(value)) <= 100
        assert quoted(value).isprintable()
    assert quoted("a'b") == '"a\'b"'
    assert quoted(12) == "12"
    while nested:  # taken apart in a loop: to drop it whole would recurse
        nested = nested[0]

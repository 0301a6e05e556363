"""What is written as TOML is read back the same."""

import math
import tomllib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nearfar.toml import to_toml

# TOML holds no lone surrogates, and integers of 64 bits.
text = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
plain = st.one_of(st.booleans(), st.integers(-(2**63), 2**63 - 1), st.floats(allow_nan=False), text)
values = st.recursive(
    plain,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(text, inner, max_size=3)),
    max_leaves=12,
)


@given(st.dictionaries(text, values, max_size=5))
@settings(deadline=None)
def test_a_document_is_read_back_equal(document: dict) -> None:
    assert tomllib.loads(to_toml(document)) == document


def test_tables_come_after_plain_values_and_types_are_kept() -> None:
    written = to_toml({"model": {"dim": 128, "head": {"bias": True}}, "seed": 1, "lr": 1e-5, "whole": 2.0})
    assert written == (
        "seed = 1\nlr = 1e-05\nwhole = 2.0\n\n[model]\ndim = 128\n\n[model.head]\nbias = true\n"
    )
    assert isinstance(tomllib.loads(written)["whole"], float)


def test_not_a_number_and_infinity() -> None:
    read = tomllib.loads(to_toml({"a": math.nan, "b": -math.inf}))
    assert math.isnan(read["a"])
    assert read["b"] == -math.inf


def test_an_empty_document_and_an_empty_table() -> None:
    assert to_toml({}) == ""
    assert tomllib.loads(to_toml({"a": {}, "b": {"c": {}}})) == {"a": {}, "b": {"c": {}}}


@pytest.mark.parametrize("value", [None, object(), {1, 2}])
def test_a_value_without_a_form_is_named(value: object) -> None:
    with pytest.raises(TypeError, match=r"'model\.size' is .* leave the key out"):
        to_toml({"model": {"size": value}})

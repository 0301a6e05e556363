"""What a model says of itself: the content of ``model.toml``, checked before anything is built from it."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from math import isfinite
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nearfar.data.preprocess import Preprocess
from nearfar.errors import CheckpointError, ConfigError, suggest
from nearfar.numbers import whole_number
from nearfar.printable import quoted, shortened

log = logging.getLogger("nearfar")


class NotWritable(CheckpointError, TypeError):
    """A value that ``model.toml`` cannot hold."""


@dataclass(frozen=True)
class Description:
    """A description whose every value has the type that it should have.

    Attributes:
        fingerprint: of weights, structure and preprocessing.
        sections: ``model``, ``preprocess``, ``dtype`` and ``dtypes`` as they were read.
        preprocess: what the model expects.
        details: ``classes``, ``metrics``, ``command``.
        dtype: of the floating-point weights and buffers; None in a model from before this was written.
        dtypes: of those that have another, by name.
    """

    fingerprint: str
    sections: dict[str, Any]
    preprocess: Preprocess
    details: dict[str, Any]
    dtype: torch.dtype | None
    dtypes: dict[str, torch.dtype]


def read_description(
    document: Mapping[str, Any], file: object, advice: str = "save the model again"
) -> Description:
    """Check a document of ``model.toml``.

    Args:
        document: as TOML or JSON gave it.
        file: where it was read, for the sentences.
        advice: what to do, for them too.

    Raises:
        CheckpointError: naming the file and the key, if a key is missing, unknown or of the wrong type.
    """

    def refuse(key: str, value: Any, expected: str) -> CheckpointError:
        return CheckpointError(
            f"'{file}' is damaged or was edited: '{key}' is {quoted(value)}, expected {expected}; {advice}."
        )

    def check(table: Mapping[str, Any], path: str, wanted: Mapping[str, Check]) -> None:
        for key, (expected, fits) in wanted.items():
            if key not in table:
                raise CheckpointError(
                    f"'{file}' does not describe its model (it has no '{path}{key}'); another version of "
                    f"nearfar wrote it, or it was damaged or edited; {advice}."
                )
            if not fits(table[key]):
                raise refuse(path + key, table[key], expected)

    check(document, "", TOP)
    for section, wanted in SECTIONS.items():
        table = document[section]
        check(table, section + ".", wanted)
        known = {*wanted, *(item.name for item in fields(Preprocess) if section == "preprocess")}
        for key in table:
            if key not in known:
                raise CheckpointError(
                    f"'{file}' has a key '{section}.{shortened(key)}' that this version of nearfar "
                    f"does not know.{suggest(key, sorted(known))}"
                )
    dtypes = document.get("dtypes", {})
    if not isinstance(dtypes, dict):
        raise refuse("dtypes", dtypes, "a table")
    declared = {"dtype": document.get("dtype", "float32"), **{f"dtypes.{k}": v for k, v in dtypes.items()}}
    for key, value in declared.items():
        if not isinstance(value, str) or value not in DTYPES:
            raise refuse(shortened(key), value, "a type of numbers, such as 'float32'")
    try:
        preprocess = Preprocess.from_dict(document["preprocess"])
    except (ConfigError, TypeError) as error:
        raise CheckpointError(f"'{file}' is damaged or was edited: {error} {advice.capitalize()}.") from error
    return Description(
        document["fingerprint"],
        {
            "model": document["model"],
            "preprocess": document["preprocess"],
            "": {"dtype": document.get("dtype")},
            "dtypes": dtypes,
        },
        preprocess,
        {key: document[key] for key in ("classes", "metrics", "command")},
        DTYPES[document["dtype"]] if "dtype" in document else None,
        {name: DTYPES[value] for name, value in dtypes.items()},
    )


def writable(value: Any, path: str) -> Any:
    """Return ``value`` in plain types that TOML and JSON hold: numbers of numpy and torch become Python's.

    Raises:
        NotWritable: naming the place, if there is a value that they cannot hold.
    """
    match value:
        case str():
            return _text_of(value, path)
        case bool() | np.bool_():
            return bool(value)
        case float() | np.floating():
            return float(value)
        case np.ndarray() | Tensor():
            return writable(value.tolist(), path)
        case Mapping():
            return {_key(key, path): writable(inner, f"{path}.{key}") for key, inner in value.items()}
        case Sequence() if not isinstance(value, (bytes, bytearray, memoryview)):
            return [writable(inner, path) for inner in value]
    number = whole_number(value)
    if number is not None and abs(number) < 2**63:
        return number
    raise NotWritable(
        f"'{path}' is {quoted(value)}, which model.toml cannot hold; give numbers, text, lists and tables of "
        "them, or leave the key out."
    )


def describe_details(**details: Any) -> dict[str, Any]:
    """Return classes, metrics and command in types that `read_description` takes.

    Raises:
        NotWritable: naming the first that cannot be.
    """
    plain = {key: writable(value, key) for key, value in details.items()}
    for key, value in plain.items():
        expected, fits = TOP[key]
        if not fits(value):
            raise NotWritable(f"{key} is {quoted(value)}; expected {expected}. Nothing was written.")
    return plain


def whole(value: Any, name: str) -> int:
    """Return a whole number, of Python, numpy or torch.

    Raises:
        ConfigError: for any other value.
    """
    found = whole_number(value)
    if found is None:
        raise ConfigError(f"{name} must be a whole number; got {quoted(value)}.")
    return found


def _key(key: Any, path: str) -> str:
    """Return the key of a table: text, or a whole number as text, as in ``{1: 0.5}``."""
    if isinstance(key, str):
        return _text_of(key, path)
    number = whole_number(key)
    if number is None:
        raise NotWritable(f"'{path}' has the key {quoted(key)}; keys must be text or whole numbers.")
    return str(number)


def _text_of(value: str, path: str) -> str:
    # A file name that is no UTF-8 comes with lone surrogates, which no text file can hold.
    text = value.encode("utf-8", "replace").decode()
    if text != value:
        log.warning("'%s' holds a name that is no UTF-8; it is written as %s.", path, quoted(text))
    return text


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _positive(value: Any) -> bool:
    return _whole(value) and 0 < value < 2**31


def _three_numbers(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 3 and all(map(_finite, value))


def _finite(value: Any) -> bool:
    return (isinstance(value, float) and isfinite(value)) or (_whole(value) and abs(value) < 2**31)


def _names(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) or _whole(item) for item in value)


def _values(value: Any) -> bool:
    if isinstance(value, dict):
        return all(map(_values, value.values()))
    if isinstance(value, list):
        return all(map(_values, value))
    return isinstance(value, (str, bool, float)) or (_whole(value) and abs(value) < 2**63)


def _kind(kind: type) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, kind)


Check = tuple[str, Callable[[Any], bool]]
_text: Check = ("text", _kind(str))
_word: Check = ("a word", lambda value: isinstance(value, str) and len(value) < 80)
_switch: Check = ("true or false", _kind(bool))
_size: Check = ("a whole number above 0", _positive)
_channels: Check = ("a list of 3 numbers", _three_numbers)
TOP: dict[str, Check] = {
    "fingerprint": _text,
    "model": ("a table", _kind(dict)),
    "preprocess": ("a table", _kind(dict)),
    "classes": ("a list of names", _names),
    "metrics": ("a table of numbers", lambda value: isinstance(value, dict) and _values(value)),
    "command": _text,
}
SECTIONS: dict[str, dict[str, Check]] = {
    "model": {
        "backbone": _text,
        "dim": _size,
        "pooling": _text,
        "head": _text,
        "layer_norm": _switch,
        "freeze_batch_norm": _switch,
    },
    "preprocess": {
        "size": _size,
        "resize": _size,
        "mean": _channels,
        "std": _channels,
        "interpolation": _word,
        "fit": _word,
    },
}
DTYPES: dict[str, torch.dtype] = {
    str(value).removeprefix("torch."): value
    for value in vars(torch).values()
    if isinstance(value, torch.dtype) and value.is_floating_point
}

"""From a failed validation to one sentence: which key, what it must be, what it was."""

from difflib import get_close_matches
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, ByteSize, ValidationError
from pydantic.fields import FieldInfo

from nearfar.errors import ConfigError, shortened

_plain = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "a text",
    ByteSize: 'a size such as "2GiB"',
}


def sentence(error: ValidationError, model: type[BaseModel], prefix: str = "") -> ConfigError:
    """Return the first fault as an error; ``prefix`` is the dotted place of ``model`` ("loss.")."""
    fault = error.errors()[0]
    cause = fault.get("ctx", {}).get("error")
    if isinstance(cause, ValueError):
        return ConfigError(str(cause))
    place, field = _locate(fault["loc"], model)
    key = prefix + ".".join(place)
    if fault["type"] == "extra_forbidden":
        return unknown_key(key, known_keys(model, prefix))
    if fault["type"] == "missing" and len(fault["loc"]) == len(place):
        return ConfigError(f"{key} is missing.")
    expected = in_words(field.annotation, field.metadata) if field else "a table"
    return ConfigError(f"{key} must be {expected}; got {shortened(fault['input'])}.")


def unknown_key(key: str, known: list[str]) -> ConfigError:
    """Return the error for a key that does not exist, with the nearest one that does."""
    section, _, word = key.rpartition(".")
    shown = shortened(key)
    here = {k.rpartition(".")[2]: k for k in known if k.rpartition(".")[0] == section}
    elsewhere = {k.rpartition(".")[2]: k for k in known}
    for group, cutoff in ((here, 0.6), (elsewhere, 0.8)):
        for close in get_close_matches(word, list(group), n=1, cutoff=cutoff):
            return ConfigError(f"unknown key {shown}. Did you mean {group[close]!r}?")
    names = ", ".join(here)
    return ConfigError(
        f"unknown key {shown}. {shortened(section)[1:-1] if section else 'A configuration'} has: {names}."
    )


def known_keys(model: type[BaseModel], prefix: str = "") -> list[str]:
    """Return the dotted names of all keys below ``model``, sections included."""
    keys = []
    for name, field in model.model_fields.items():
        keys.append(prefix + name)
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            keys += known_keys(field.annotation, f"{prefix}{name}.")
    return keys


def in_words(annotation: Any, metadata: list[Any] | tuple[Any, ...] = ()) -> str:
    """Say which values a key takes: "a whole number of 1 or more"."""
    origin = get_origin(annotation)
    if origin is Annotated:
        inner, *more = get_args(annotation)
        metadata = [m for item in more for m in (item.metadata if isinstance(item, FieldInfo) else [item])]
        return in_words(inner, metadata)
    if origin in (Union, UnionType):
        return _either([in_words(a, metadata) for a in get_args(annotation) if a is not NoneType])
    if origin is Literal:
        return _either([shortened(value) for value in get_args(annotation)])
    if origin is tuple and Ellipsis in get_args(annotation):
        return "whole numbers in brackets, such as [1000, 2000]"
    if origin is tuple:
        return f"{len(get_args(annotation))} numbers in brackets, such as [0.5, 1.0]"
    if origin is dict or annotation is dict:
        return "a table"
    return _plain.get(annotation, str(getattr(annotation, "__name__", annotation))) + _limits(metadata)


def _limits(metadata: list[Any] | tuple[Any, ...]) -> str:
    found = {
        name: getattr(item, name)
        for item in metadata
        for name in ("ge", "gt", "le", "lt")
        if hasattr(item, name)
    }
    low = f"{found['ge']} or more" if "ge" in found else f"more than {found['gt']}" if "gt" in found else ""
    if "ge" in found and "le" in found:
        return f" from {found['ge']} to {found['le']}"
    high = f"{found['le']} or less" if "le" in found else f"less than {found['lt']}" if "lt" in found else ""
    limits = " and ".join(part for part in (low, high) if part)
    return f" of {limits}" if limits else ""


def _locate(loc: tuple[int | str, ...], model: type[BaseModel]) -> tuple[list[str], FieldInfo | None]:
    """Follow the part of ``loc`` that names keys; pydantic adds the members of unions behind it."""
    place: list[str] = []
    field: FieldInfo | None = None
    current: Any = model
    for part in loc:
        if not (isinstance(current, type) and issubclass(current, BaseModel)):
            break
        place.append(str(part))
        field = current.model_fields.get(str(part))
        current = field.annotation if field else None
    if isinstance(current, type) and issubclass(current, BaseModel):
        field = None
    return place, field


def _either(words: list[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} or {words[-1]}"

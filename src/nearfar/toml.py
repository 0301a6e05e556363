"""Write TOML; the standard library only reads it."""

import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")


def to_toml(document: Mapping[str, Any]) -> str:
    """Return ``document`` as TOML text that ``tomllib`` reads back to an equal document.

    Args:
        document: nested mappings with string keys. Values are str, int, float, bool, a sequence of values, or
            a mapping. A mapping becomes a table, a sequence of mappings an array of inline tables.

    Raises:
        TypeError: if a value has no form in TOML (None, for one: leave the key out instead).
    """
    lines: list[str] = []
    write_table(document, (), lines)
    return "\n".join(lines) + "\n" if lines else ""


def write_table(table: Mapping[str, Any], path: tuple[str, ...], lines: list[str]) -> None:
    """Append the lines of ``table``: its plain values first, since a table's header ends the one before."""
    plain = {key: value for key, value in table.items() if not isinstance(value, Mapping)}
    tables = {key: value for key, value in table.items() if isinstance(value, Mapping)}
    if path and (plain or not tables):
        if lines:
            lines.append("")
        lines.append("[" + ".".join(format_key(part) for part in path) + "]")
    lines.extend(f"{format_key(key)} = {format_value(value, (*path, key))}" for key, value in plain.items())
    for key, value in tables.items():
        write_table(value, (*path, key), lines)


def format_key(key: str) -> str:
    """Return ``key`` bare where TOML allows it, else quoted."""
    if not isinstance(key, str):
        raise TypeError(f"a TOML key must be a string; got {key!r}.")
    return key if BARE_KEY.fullmatch(key) else format_string(key)


def format_string(text: str) -> str:
    """Return ``text`` as a basic string: JSON's escapes are TOML's, but TOML also forbids a bare DEL."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def format_value(value: Any, path: tuple[str, ...] = ()) -> str:
    """Return one value; ``path`` names it in the error."""
    match value:
        case bool():
            return "true" if value else "false"
        case int():
            return str(int(value))
        case float():
            if math.isnan(value):
                return "nan"
            if math.isinf(value):
                return "inf" if value > 0 else "-inf"
            text = repr(float(value))
            # TOML wants digits on both sides of the point, or an exponent after digits: '1e-05' is fine.
            return text if any(mark in text for mark in ".e") else text + ".0"
        case str():
            return format_string(value)
        case Mapping():
            inside = ", ".join(f"{format_key(k)} = {format_value(v, (*path, k))}" for k, v in value.items())
            return "{ " + inside + " }" if inside else "{}"
        case Sequence():
            return "[" + ", ".join(format_value(item, path) for item in value) + "]"
    raise TypeError(f"'{'.'.join(path)}' is {value!r}, which TOML cannot hold; leave the key out instead.")

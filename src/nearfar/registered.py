"""Functions by name, whose keyword-only arguments are their settings: what losses and mining rules share."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatchcase
from types import NoneType, UnionType
from typing import Any, Generic, Literal, TypeVar, get_args, get_origin

from nearfar.errors import NearfarError, suggest
from nearfar.numbers import number, whole_number
from nearfar.printable import quoted

Entry = TypeVar("Entry")


class Registry(Generic[Entry]):
    """Named entries, each behind a function that documents it.

    Attributes:
        kind: what an entry is called in messages, such as "loss" or "mining rule".
    """

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._entries: dict[str, Entry] = {}
        self._functions: dict[str, Callable[..., Any]] = {}

    def add(self, function: Callable[..., Any], entry: Entry) -> None:
        """Add an entry under the name of its function; a name is given once."""
        name = function.__name__
        if name in self._entries:
            raise NearfarError(f"a {self.kind} named {name!r} is registered already; choose another name.")
        self._entries[name], self._functions[name] = entry, function

    def __getitem__(self, name: str) -> Entry:
        if not isinstance(name, str) or name not in self._entries:
            raise NearfarError(
                f"there is no {self.kind} named {quoted(name)}.{suggest(name, list(self._entries))} "
                f"Known: {', '.join(self.names())}."
            )
        return self._entries[name]

    def names(self, pattern: str = "*") -> list[str]:
        """List the names that match ``pattern`` (shell wildcards), in order."""
        return sorted(name for name in self._entries if fnmatchcase(name, pattern))

    def settings(self, name: str) -> inspect.Signature:
        """Return the keyword-only arguments of an entry's function."""
        self[name]
        signature = inspect.signature(self._functions[name])
        kept = [p for p in signature.parameters.values() if p.kind is p.KEYWORD_ONLY]
        return signature.replace(parameters=kept, return_annotation=inspect.Signature.empty)

    def complete(self, name: str, given: Mapping[str, Any]) -> dict[str, Any]:
        """Return all settings of an entry: those given, and defaults for the rest.

        Raises:
            NearfarError: if a setting is unknown or one without default is missing.
        """
        parameters = self.settings(name).parameters
        for key in given:
            if key not in parameters:
                raise NearfarError(
                    f"the {self.kind} {name!r} has no setting {quoted(key)}.{suggest(key, list(parameters))} "
                    f"Its settings: {', '.join(parameters) or 'none'}."
                )
        for key, parameter in parameters.items():
            if parameter.default is parameter.empty and key not in given:
                raise NearfarError(f"the {self.kind} {name!r} needs a value for {key!r}.")
        return {
            key: self._read(name, key, given[key], parameter.annotation)
            if key in given
            else parameter.default
            for key, parameter in parameters.items()
        }

    def _read(self, name: str, key: str, value: Any, annotation: Any) -> Any:
        """Return a value as Python's own; refuse what is not of the kinds that the signature names."""
        kinds = get_args(annotation) if isinstance(annotation, UnionType) else (annotation,)
        for kind in kinds:
            found = _as(value, kind)
            if found is not _NOT:
                return found
        words = [word for kind in kinds if get_origin(kind) is Literal for word in get_args(kind)]
        wanted = [repr(word) for word in words] + [_kinds[kind] for kind in kinds if kind in _kinds]
        if isinstance(value, int | float) and not isinstance(value, bool):
            wanted = [word.replace("a number", f"a finite number of at most {MOST:g}") for word in wanted]
        guess = suggest(value, words) if isinstance(value, str) else ""
        raise NearfarError(
            f"{key} of the {self.kind} {name!r} must be {' or '.join(wanted)}; got {quoted(value)}.{guess}"
        )

    def describe(self, name: str) -> str:
        """Return the signature and the whole documentation of an entry."""
        return f"{name}{self.settings(name)}\n\n{inspect.getdoc(self._functions[name])}"


MOST, MOST_WHOLE = 1e12, 2**63
"""What a setting can reach; beyond that it can only be a mistake."""
_NOT = object()
_kinds = {
    float: "a number",
    int: "a whole number",
    bool: "true or false",
    NoneType: "none",
    str: "text",
    Sequence[int]: "a list of whole numbers",
}


def _as(value: Any, kind: Any) -> Any:
    """Return a value as one of a kind, numbers of numpy and torch as Python's; ``_NOT`` if it is none."""
    if get_origin(kind) is Literal:
        return value if isinstance(value, str | int | None) and value in get_args(kind) else _NOT
    if kind is float:
        found = number(value)
        return _NOT if found is None or abs(found) > MOST else found
    if kind is int:
        whole = whole_number(value)
        return _NOT if whole is None or abs(whole) > MOST_WHOLE else whole
    if kind is bool:
        return bool(value) if type(value).__name__ in ("bool", "bool_") else _NOT
    if kind == Sequence[int]:
        return _whole_numbers(value)
    if kind in _kinds:
        return value if isinstance(value, kind) else _NOT
    if isinstance(kind, type) and kind.__name__ == "Tensor":  # one that wants a gradient, or it were a number
        one = isinstance(value, kind) and value.ndim == 0 and value.requires_grad
        return value if one and number(value.detach()) is not None else _NOT
    return _NOT if isinstance(value, str | bool) else value


def _whole_numbers(value: Any) -> Any:
    """Return several whole numbers as they are in Python."""
    if not isinstance(value, Sequence) and not (hasattr(value, "tolist") and getattr(value, "ndim", 0) == 1):
        return _NOT
    found = tuple(whole_number(one) for one in (value if isinstance(value, Sequence) else value.tolist()))
    return _NOT if isinstance(value, str) or None in found else found

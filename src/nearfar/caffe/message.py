"""What a definition says: fields in file order, each with its place, so that later errors can name it."""

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias, TypeVar

from nearfar.errors import NearfarError, suggest

Value: TypeAlias = "str | bool | int | float | Message"
Default = TypeVar("Default")


class PrototxtError(NearfarError):
    """Text that is no protobuf text, or a field whose value does not fit; begins with file:line:column."""


class Word(str):
    """A bare word: the name of an enum value, such as ``MAX``."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class Field:
    """One field. Equal when name and value are.

    Attributes:
        name: as written; that of an extension keeps its brackets: "[a.b]".
        value: a quoted text is ``str``, a bare word `Word`, ``true`` and ``false`` are ``bool``.
        line, column: where the name begins, counted from 1.
    """

    name: str
    value: Value
    line: int = field(default=1, compare=False)
    column: int = field(default=1, compare=False)


@dataclass(frozen=True, slots=True)
class Message:
    """Fields in file order; a repeated field is there several times. Equal when the fields are.

    Attributes:
        fields: the fields.
        line, column: of the field that holds it, counted from 1.
        source: the file, for errors.
    """

    fields: list[Field]
    line: int = field(default=1, compare=False)
    column: int = field(default=1, compare=False)
    source: str = field(default="text", compare=False)

    def all(self, name: str) -> list[Value]:
        """Return every value of a repeated field."""
        return [one.value for one in self.fields if one.name == name]

    def place(self, name: str) -> Field | None:
        """Return the field that counts, the last one of that name; None where there is none."""
        return next((one for one in reversed(self.fields) if one.name == name), None)

    def one(self, name: str, default: Default = None) -> Value | Default:
        """Return the value that counts, or ``default``."""
        found = self.place(name)
        return default if found is None else found.value

    def number(self, name: str, default: Default) -> int | float | Default:
        """Return a number, or ``default``.

        Raises:
            PrototxtError: if the value is something else.
        """
        found = self.place(name)
        return default if found is None else self._number(found)

    def whole(self, name: str, default: Default) -> int | Default:
        """Return a whole number, or ``default``.

        Raises:
            PrototxtError: if the value is something else, 1e3 and 1000.0 included, as in protobuf.
        """
        found = self.place(name)
        return default if found is None else self._whole(found)

    def text(self, name: str, default: Default) -> str | Default:
        """Return a quoted text, or ``default``.

        Raises:
            PrototxtError: if the value is something else, a bare word included.
        """
        found = self.place(name)
        return default if found is None else self._text(found)

    def flag(self, name: str, default: Default) -> bool | Default:
        """Return true or false, or ``default``; ``True``, ``t``, 1, ``False``, ``f`` and 0 count too.

        Raises:
            PrototxtError: if the value is something else.
        """
        found = self.place(name)
        if found is None:
            return default
        value = found.value
        if isinstance(value, bool):
            return value
        if isinstance(value, Word) and value in ("True", "t", "False", "f"):
            return value in ("True", "t")
        if isinstance(value, int) and value in (0, 1):
            return value == 1
        raise self._kind(found, "true or false")

    def word(self, name: str, choices: Sequence[str], default: Default) -> str | Default:
        """Return a bare word out of ``choices``, or ``default``.

        Raises:
            PrototxtError: for another word, with the nearest choice, or for a value that is no bare word.
        """
        found = self.place(name)
        if found is None:
            return default
        known = list(choices)
        if not isinstance(found.value, Word):
            raise self._kind(found, f"one of {', '.join(known)}, without quotes")
        if found.value not in known:
            hint = suggest(found.value, known)
            raise self.error(f"{name} must be one of {', '.join(known)}; found {found.value}.{hint}", found)
        return str(found.value)

    def numbers(self, name: str) -> list[int | float]:
        """Return all numbers of a repeated field."""
        return [self._number(one) for one in self.fields if one.name == name]

    def wholes(self, name: str) -> list[int]:
        """Return all whole numbers of a repeated field."""
        return [self._whole(one) for one in self.fields if one.name == name]

    def texts(self, name: str) -> list[str]:
        """Return all quoted texts of a repeated field."""
        return [self._text(one) for one in self.fields if one.name == name]

    def messages(self, name: str) -> list["Message"]:
        """Return all messages of a repeated field.

        Raises:
            PrototxtError: if one of the values is no message.
        """
        found = [one for one in self.fields if one.name == name]
        for one in found:
            if not isinstance(one.value, Message):
                raise self._kind(one, "a message in braces")
        return [one.value for one in found if isinstance(one.value, Message)]

    def unknown(self, known: Collection[str]) -> list[Field]:
        """Return the fields whose names are not among ``known``."""
        return [one for one in self.fields if one.name not in known]

    def error(self, text: str, at: Field | None = None) -> PrototxtError:
        """Return an error that begins with the place of a field, or of this message."""
        place = self if at is None else at
        return PrototxtError(f"{self.source}:{place.line}:{place.column}: {text}")

    def _number(self, field: Field) -> int | float:
        if isinstance(field.value, bool) or not isinstance(field.value, int | float):
            raise self._kind(field, "a number")
        return field.value

    def _whole(self, field: Field) -> int:
        if isinstance(field.value, bool) or not isinstance(field.value, int):
            raise self._kind(field, "a whole number")
        return field.value

    def _text(self, field: Field) -> str:
        if isinstance(field.value, Word) or not isinstance(field.value, str):
            raise self._kind(field, "a text in quotes")
        return field.value

    def _kind(self, field: Field, expected: str) -> PrototxtError:
        return self.error(f"{field.name} must be {expected}; found {shown(field.value)}.", field)


def shown(value: Value) -> str:
    """Return a value as a definition would have it, for errors; a long one is cut."""
    if isinstance(value, Message):
        return "a message"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str) and not isinstance(value, Word):
        return json.dumps(value if len(value) <= 40 else value[:40] + "…", ensure_ascii=False)
    return str(value)[:40]

"""A path to a picture that is only part of a file, or that lies inside a table."""

from collections.abc import Sequence
from typing import cast

Box = tuple[float, float, float, float]


class Picture(str):
    """The path of a picture, with what else it takes to decode it.

    It stands for its path wherever a string does. Two are equal when path and box are, so the parts of one
    file are told apart.

    Args:
        path: of the file; for a picture inside a table, of the table and its place there.
        box: the part of the file that is the picture: left, top, right, bottom in pixels.
        data: the bytes of the file, where it is none of its own.
    """

    __slots__ = ("box", "data")

    box: Box | None
    data: bytes | None

    def __new__(cls, path: str, box: Sequence[float] | None = None, data: bytes | None = None) -> "Picture":
        made = super().__new__(cls, path)
        made.box, made.data = None if box is None else cast(Box, tuple(box)), data
        return made

    def __eq__(self, other: object) -> bool:
        return str.__eq__(self, other) is True and (not isinstance(other, Picture) or self.box == other.box)

    def __ne__(self, other: object) -> bool:
        return not self == other

    __hash__ = str.__hash__

    def __reduce__(self) -> tuple[type["Picture"], tuple[str, Box | None, bytes | None]]:
        return Picture, (str(self), self.box, self.data)


def box_of(path: object) -> Box | None:
    """Return the part of the file that is meant, or None for the whole."""
    return path.box if isinstance(path, Picture) else None


def data_of(path: object) -> bytes | None:
    """Return the bytes of a picture that is no file of its own, else None."""
    return path.data if isinstance(path, Picture) else None

"""Decode image files by their content, whatever they are called."""

import os
import struct
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from nearfar.data.table import Table
from nearfar.errors import DataError, require

if TYPE_CHECKING:
    from PIL.Image import Image

ORIENTATION = 0x0112  # the EXIF tag


class UnreadableImage(DataError):
    """A file that cannot be decoded; ``path`` and ``reason`` say which and why."""

    def __init__(self, path: str, reason: str) -> None:
        self.path, self.reason = path, reason
        super().__init__(f"cannot read the image '{path}': {reason}.")

    def __reduce__(self) -> tuple[type, tuple[str, str]]:
        return type(self), (self.path, self.reason)


@dataclass(frozen=True)
class Unreadable:
    """One file that cannot be decoded."""

    path: str
    reason: str


def decode(path: str | Path, *, at_least: int = 0) -> "Image":
    """Return the image as RGB, upright, on white where it is transparent, 16-bit scaled to 8.

    Args:
        path: the file. Its content decides the format, not its name: a GIF called .JPG decodes (first frame).
        at_least: pixels of the shorter side that are enough. A JPEG is then decoded at the smallest scale of
            its format that keeps them, which takes a fraction of the time.

    Raises:
        UnreadableImage: if the file is missing, is no image or is damaged.
    """
    pil = require("PIL.Image", "train")
    try:
        # Opened here, since PIL is given no path: its own handle of a broken file stays open until collected.
        with open(path, "rb") as file, pil.open(file) as image:
            if at_least and image.format == "JPEG":
                image.draft("RGB", (at_least, at_least))
            image.load()
            return to_rgb(upright(image))
    except FileNotFoundError as error:
        raise UnreadableImage(str(path), "no such file") from error
    except pil.UnidentifiedImageError as error:
        empty = os.path.getsize(path) == 0
        reason = "the file is empty" if empty else "it is not an image of a known format, whatever its name"
        raise UnreadableImage(str(path), reason) from error
    except MemoryError:
        raise
    except Exception as error:
        # A damaged file can make a decoder raise nearly anything; which, is in the reason.
        reason = str(error).rstrip(".") or type(error).__name__
        raise UnreadableImage(str(path), reason) from error


def upright(image: "Image") -> "Image":
    """Return the image turned as its EXIF orientation asks; one whose EXIF is damaged stays as it is."""
    transpose = require("PIL.Image", "train").Transpose
    turns = {
        2: transpose.FLIP_LEFT_RIGHT,
        3: transpose.ROTATE_180,
        4: transpose.FLIP_TOP_BOTTOM,
        5: transpose.TRANSPOSE,
        6: transpose.ROTATE_270,
        7: transpose.TRANSVERSE,
        8: transpose.ROTATE_90,
    }
    try:
        orientation = image.getexif().get(ORIENTATION)
    except (SyntaxError, ValueError, OSError, struct.error):
        orientation = None
    return image.transpose(turns[orientation]) if orientation in turns else image


def to_rgb(image: "Image") -> "Image":
    """Return the image as 8-bit RGB, transparent parts on white."""
    pil = require("PIL.Image", "train")
    if image.mode in {"I", "F"} or image.mode.startswith("I;16"):
        image = pil.fromarray(to_8_bit(np.asarray(image)))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = pil.new("RGBA", image.size, "white")
        return pil.alpha_composite(white, image).convert("RGB")
    return image.convert("RGB")


def to_8_bit(values: np.ndarray) -> np.ndarray:
    """Return grey values as uint8: integers are 16-bit; floats in [0, 1], or [0, 255] if any is above 1."""
    if values.dtype.kind in "iu":
        return (np.clip(values, 0, 65535) / 257 + 0.5).astype(np.uint8)
    scale = 255.0 if values.size and np.nanmax(values) <= 1 else 1.0
    return (np.clip(np.nan_to_num(values) * scale, 0, 255) + 0.5).astype(np.uint8)


def find_unreadable(
    table: Table, workers: int | None = None, progress: Callable[[int, int], None] | None = None
) -> list[Unreadable]:
    """Decode every image of ``table`` and return those that cannot be, in the order of the table.

    Args:
        table: the images.
        workers: threads; None is one for each processor.
        progress: called with the number of images done and of all.
    """
    found = []
    with ThreadPoolExecutor(workers or processors()) as pool:
        for done, problem in enumerate(pool.map(try_to_decode, table.path), start=1):
            if problem is not None:
                found.append(problem)
            if progress is not None:
                progress(done, len(table))
    return found


def try_to_decode(path: str) -> Unreadable | None:
    """Return what is wrong with the file, or None."""
    try:
        decode(path)
    except UnreadableImage as error:
        return Unreadable(error.path, error.reason)
    return None


def processors() -> int:
    """Return how many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1

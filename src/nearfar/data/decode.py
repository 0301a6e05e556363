"""Decode image files by their content, whatever they are called."""

import io
import os
import struct
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from nearfar.data.picture import Box, box_of, data_of
from nearfar.data.table import Table
from nearfar.errors import DataError, require

if TYPE_CHECKING:
    from PIL.Image import Image

ORIENTATION = 0x0112  # the EXIF tag
MOST_PIXELS = 100_000_000
MOST_RATIO = 200
SCALES = (1, 2, 4, 8)  # at which a JPEG can be decoded smaller
# Greys below this, out of 65,536, are those of a camera with 12 bits or fewer.
SHALLOW = 4096
# The share of values that may lie above white.
FEW = 0.01


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

    A picture of more than ``MOST_PIXELS`` is decoded at a smaller scale where its format can.

    Args:
        path: the file. Its content decides the format, not its name: a GIF called .JPG decodes (first frame).
            A ``Picture`` is the part of it that its box says, in pixels of the upright picture.
        at_least: pixels of the shorter side that are enough. A JPEG is then decoded at the smallest scale of
            its format that keeps them, which takes a fraction of the time.

    Raises:
        UnreadableImage: if the file is missing, is no image, is damaged, too large or too long.
    """
    pil = require("PIL.Image", "train")
    data, box = data_of(path), box_of(path)
    name = path if isinstance(path, str) else str(path)
    # Instead of Pillow's warning there is a limit of our own. Set here, since a test or a program may have
    # reset the filters since; and not by `catch_warnings`, which threads must not use.
    if not any(kind is pil.DecompressionBombWarning for _, _, kind, _, _ in warnings.filters):
        warnings.filterwarnings("ignore", category=pil.DecompressionBombWarning)
    try:
        # Opened here, since PIL is given no path: its own handle of a broken file stays open until collected.
        with open(path, "rb") if data is None else io.BytesIO(data) as file, pil.open(file) as image:
            whole = image.size
            draft(image, at_least, box)
            image.load()
            part = part_of(upright(image), whole, box)
            check_shape(part.size)
            return to_rgb(part)
    except FileNotFoundError as error:
        raise UnreadableImage(name, "no such file") from error
    except IsADirectoryError as error:
        raise UnreadableImage(name, "it is a folder") from error
    except pil.UnidentifiedImageError as error:
        empty = (os.path.getsize(path) if data is None else len(data)) == 0
        reason = "the file is empty" if empty else "it is not an image of a known format, whatever its name"
        raise UnreadableImage(name, reason) from error
    except pil.DecompressionBombError as error:
        most = 2 * pil.MAX_IMAGE_PIXELS
        raise UnreadableImage(name, f"it has more than {most / 1e6:,.0f} million pixels") from error
    except MemoryError:
        raise
    except Exception as error:
        # A damaged file can make a decoder raise nearly anything; which, is in the reason.
        reason = str(error).rstrip(".") or type(error).__name__
        raise UnreadableImage(name, reason) from error


def draft(image: "Image", at_least: int, box: Box | None) -> None:
    """Let a JPEG be decoded at a smaller scale, and refuse what is too large all the same.

    Raises:
        DataError: if it is.
    """
    width, height = image.size
    if image.format in ("JPEG", "MPO"):
        scale = 1
        if at_least:
            left, top, right, bottom = box or (0, 0, width, height)
            # Of a part, as many pixels are wanted as of a whole.
            scale = int(min(right - left, width, bottom - top, height) // at_least)
        scale = max((each for each in SCALES if each <= scale), default=1)
        while width * height > MOST_PIXELS * scale**2 and scale < SCALES[-1]:
            scale *= 2
        if scale > 1:
            image.draft("RGB", (max(1, width // scale), max(1, height // scale)))
    if image.width * image.height > MOST_PIXELS:
        raise DataError(
            f"it has {image.width:,} x {image.height:,} pixels and at most {MOST_PIXELS / 1e6:,.0f} million "
            "are decoded; make it smaller"
        )


def part_of(image: "Image", whole: tuple[int, int], box: Box | None) -> "Image":
    """Return the part of an upright picture that a box of the whole one says.

    Raises:
        DataError: if the box lies outside the picture.
    """
    if box is None:
        return image
    if (image.width > image.height) != (whole[0] > whole[1]):
        whole = whole[::-1]
    factors = (image.width / whole[0], image.height / whole[1]) * 2
    left, top, right, bottom = (round(side * factor) for side, factor in zip(box, factors, strict=True))
    left, top = max(left, 0), max(top, 0)
    right, bottom = min(max(right, left + 1), image.width), min(max(bottom, top + 1), image.height)
    if left >= right or top >= bottom:
        shown = ", ".join(f"{side:g}" for side in box)
        raise DataError(f"its box {shown} lies outside the picture of {whole[0]} x {whole[1]} pixels")
    return image.crop((left, top, right, bottom))


def check_shape(size: tuple[int, int]) -> None:
    """Refuse a picture so long that to bring its shorter side to a size would make the longer one enormous.

    Raises:
        DataError: if it is.
    """
    if max(size) > MOST_RATIO * min(size):
        raise DataError(
            f"it has {size[0]:,} x {size[1]:,} pixels, so it is more than {MOST_RATIO} times as long as wide"
        )


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
    """Return grey values as uint8: integers are 16-bit, floats as ``white_of`` says."""
    if values.dtype.kind in "iu":
        return (np.clip(values, 0, 65535) / 257 + 0.5).astype(np.uint8)
    white = white_of(values)
    grey = np.nan_to_num(np.clip(values.astype(np.float64), 0, white))
    return (grey * (255 / white) + 0.5).astype(np.uint8)


def white_of(values: np.ndarray) -> float:
    """Return which of 1, 255 and 65,535 is white in a picture of floats: the least that few values exceed.

    A few values above white, from a filter or a hot pixel, do not make all others black.
    """
    finite = values[np.isfinite(values)]
    few = FEW * finite.size
    # Where all values are whole and some above 1, a mask of 0 and 255 is likelier than grey up to 1.
    fractions = bool(np.any(finite % 1)) or not np.any(finite > 1)
    if fractions and np.count_nonzero(finite > 1) <= few:
        return 1.0
    return 255.0 if np.count_nonzero(finite > 255) <= few else 65535.0


def shallow_grey(table: Table, look_at: int = 32) -> str | None:
    """Return a sentence if the 16-bit grey pictures of a table all stay below 4,096, else None.

    Such pictures, of 12-bit or 8-bit cameras, are nearly black at the scale of 16 bits, and few greys remain.

    Args:
        table: the pictures.
        look_at: how many to look at, from all over the table.
    """
    pil = require("PIL.Image", "train")
    most, seen = -1, 0
    for row in np.unique(np.linspace(0, len(table) - 1, min(look_at, len(table))).astype(int)):
        path = table.path[row]
        try:
            data = data_of(path)
            with open(path, "rb") if data is None else io.BytesIO(data) as file, pil.open(file) as image:
                if (image.mode != "I" and not image.mode.startswith("I;16")) or _too_many(image.size):
                    continue
                most, seen = max(most, int(np.asarray(image).max())), seen + 1
        except Exception:
            continue
    if not seen or most >= SHALLOW:
        return None
    return (
        f"{table.name or table.source}: the {seen} pictures of 16-bit grey that were looked at have no value "
        f"above {most:,} of 65,535, so they come out nearly black; multiply their values so that white is "
        "65,535."
    )


def _too_many(size: tuple[int, int]) -> bool:
    return size[0] * size[1] > MOST_PIXELS


def find_unreadable(
    table: Table,
    workers: int | None = None,
    progress: Callable[[int, int], None] | None = None,
    *,
    at_least: int = 0,
) -> list[Unreadable]:
    """Decode every image of ``table`` and return those that cannot be, in the order of the table.

    Args:
        table: the images.
        workers: threads; None is one for each processor.
        progress: called with the number of images done and of all.
        at_least: pixels of the shorter side that are enough; see ``decode``.
    """
    found = []
    with ThreadPoolExecutor(workers or processors()) as pool:
        problems = pool.map(partial(try_to_decode, at_least=at_least), table.path)
        for done, problem in enumerate(problems, start=1):
            if problem is not None:
                found.append(problem)
            if progress is not None:
                progress(done, len(table))
    return found


def try_to_decode(path: str, at_least: int = 0) -> Unreadable | None:
    """Return what is wrong with the file, or None."""
    try:
        decode(path, at_least=at_least)
    except UnreadableImage as error:
        return Unreadable(error.path, error.reason)
    return None


def processors() -> int:
    """Return how many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1

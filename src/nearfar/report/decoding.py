"""Each picture is decoded once: what networks see, its pixels and a small copy come out of that."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float32, Int64, UInt8
from PIL import Image, ImageOps
from torch import Tensor

from nearfar.data import Table, Unreadable, UnreadableImage, decode
from nearfar.data.decode import processors
from nearfar.data.images import describe_unreadable, kept_rows
from nearfar.data.preprocess import Preprocess
from nearfar.errors import DataError
from nearfar.models import Embedder

# Side of the square of area means by which pictures are compared as they are.
PIXELS = 32
# The largest side at which a page shows a picture, and the bytes that all small copies may take together:
# 4,300 of the largest. What is beyond is decoded again if it is shown.
SHOWN, LIMIT = 144, 2**28
# Pictures of at most as many pixels a side are shown pixel by pixel.
CRISP = 64
BATCH = 64


class Small:
    """Small copies of pictures by their path: the middle of each as a square, at most 144 pixels a side.

    Args:
        limit: bytes that they may take together.
    """

    def __init__(self, limit: int = LIMIT) -> None:
        self.limit = limit
        self.bytes = 0
        self._kept: dict[str, tuple[int, bytes]] = {}

    def keep(self, path: str, image: Image.Image) -> None:
        """Keep the copy that ``small_square`` made, unless there is no room."""
        pixels = image.tobytes()
        if path not in self._kept and self.bytes + len(pixels) <= self.limit:
            self._kept[path] = image.width, pixels
            self.bytes += len(pixels)

    def image(self, path: str) -> Image.Image:
        """Return the copy; the picture is decoded if there is none."""
        if path in self._kept:
            side, pixels = self._kept[path]
            return Image.frombytes("RGB", (side, side), pixels)
        image = small_square(decode(path, at_least=SHOWN))
        self.keep(path, image)
        return image


def small_square(image: Image.Image) -> Image.Image:
    """Return the middle of a picture as a square; one of few pixels keeps them as they are."""
    side = min(image.size)
    if side > SHOWN:
        return ImageOps.fit(image, (SHOWN, SHOWN), Image.Resampling.LANCZOS)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    return image.crop((left, top, left + side, top + side))


@dataclass(frozen=True)
class Part:
    """Some pictures, those that could be read.

    Attributes:
        rows: which of the pictures asked for.
        seen: what a network sees of each, for each preprocessing asked for.
        pixels: area means, one row a picture.
    """

    rows: list[int]
    seen: list[UInt8[Tensor, "b 3 r r"]]
    pixels: UInt8[np.ndarray, "b p"]


class Decoder:
    """Decodes pictures by threads, one batch ahead, a JPEG no larger than the networks need.

    Args:
        preprocess: of the networks that look at them. A picture is decoded as they would by themselves.
        small: where small copies are kept; None keeps none.

    Attributes:
        unreadable: the pictures met so far that cannot be decoded.
    """

    def __init__(self, preprocess: Sequence[Preprocess], small: Small | None = None) -> None:
        self.preprocess = list(preprocess)
        self.small = small
        self.unreadable: list[Unreadable] = []
        # As `Preprocess.load` asks, and never so few that a photo would pass for a picture of few pixels.
        self._at_least = max([CRISP + 1, *(2 * one.resize for one in self.preprocess)])

    def parts(
        self, paths: Sequence[str], progress: Callable[[int, int], None] | None = None, *, look: bool = True
    ) -> Iterator[Part]:
        """Yield the pictures in batches of 64; those that cannot be decoded are left out and listed.

        Args:
            paths: of the pictures.
            progress: called with the number of pictures done and of all.
            look: False leaves out what the networks see.
        """
        starts = range(0, len(paths), BATCH)
        with ThreadPoolExecutor(processors()) as pool:
            ahead: list = []
            for start in [*starts, len(paths)]:
                coming = [pool.submit(self._one, path, look) for path in paths[start : start + BATCH]]
                if ahead:
                    first = start - len(ahead)
                    yield self._together(first, [future.result() for future in ahead], paths)
                    if progress is not None:
                        progress(start, len(paths))
                ahead = coming

    def _one(self, path: str, look: bool) -> "One | Unreadable":
        try:
            image = decode(path, at_least=self._at_least)
        except UnreadableImage as error:
            return Unreadable(error.path, error.reason)
        seen = [one.from_image(image) for one in self.preprocess] if look else []
        pixels = np.asarray(image.resize((PIXELS, PIXELS), Image.Resampling.BOX), np.uint8).ravel()
        return One(seen, pixels, None if self.small is None else small_square(image))

    def _together(self, first: int, found: "list[One | Unreadable]", paths: Sequence[str]) -> Part:
        self.unreadable += [one for one in found if isinstance(one, Unreadable)]
        read = [(first + place, one) for place, one in enumerate(found) if isinstance(one, One)]
        for row, one in read:
            if self.small is not None and one.small is not None:
                self.small.keep(paths[row], one.small)
        seen = [torch.stack(tensors) for tensors in zip(*(one.seen for _, one in read), strict=True)]
        pixels = np.stack([one.pixels for _, one in read]) if read else np.empty((0, 3 * PIXELS**2), np.uint8)
        return Part([row for row, _ in read], seen, pixels)


@dataclass(frozen=True)
class One:
    """What is kept of one picture that was decoded."""

    seen: list[UInt8[Tensor, "3 r r"]]
    pixels: UInt8[np.ndarray, " p"]
    small: Image.Image | None


@dataclass(frozen=True)
class Looked:
    """A table as several networks see it, row for row.

    Attributes:
        table: the pictures that could be read.
        rows: which rows of the table given they are.
        embeddings: of each network.
        pixels: area means of each picture, with their mean removed, of unit length.
    """

    table: Table
    rows: Int64[np.ndarray, " n"]
    embeddings: list[Float32[np.ndarray, "n dim"]]
    pixels: Float32[np.ndarray, "n p"]


def look(
    table: Table,
    networks: Sequence[tuple[Embedder, bool]],
    *,
    skip_unreadable: bool = False,
    small: Small | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Looked:
    """Embed a table by several networks, each picture decoded once.

    Args:
        table: the pictures.
        networks: each with whether its head takes part.
        skip_unreadable: leave out what cannot be decoded.
        small: where small copies are kept.
        progress: called with the number of pictures done and of all.

    Raises:
        DataError: if pictures cannot be decoded and ``skip_unreadable`` is off, or none is left.
    """
    preprocess = list(dict.fromkeys(network.preprocess for network, _ in networks))
    decoder = Decoder(preprocess, small)
    rows: list[int] = []
    pixels: list[np.ndarray] = []
    embeddings: list[list[np.ndarray]] = [[] for _ in networks]
    for part in decoder.parts(table.path.tolist(), progress):
        if not part.rows or (decoder.unreadable and not skip_unreadable):
            continue  # nothing to embed, or only the list of broken files is still of use
        rows += part.rows
        pixels.append(part.pixels)
        for kept, (network, head) in zip(embeddings, networks, strict=True):
            seen = part.seen[preprocess.index(network.preprocess)]
            kept.append(network.encode(seen, head=head).numpy())
    check_readable(decoder.unreadable, table, skip_unreadable)
    kept_rows = np.array(rows, np.int64)
    whole = table if len(rows) == len(table) else table.select(kept_rows)
    return Looked(whole, kept_rows, [np.concatenate(kept) for kept in embeddings], directions(pixels))


def check_readable(unreadable: Sequence[Unreadable], table: Table, skip: bool) -> None:
    """Refuse pictures that cannot be decoded, or tell that they are left out, where ``skip`` says so.

    Raises:
        DataError: naming up to five of them.
    """
    if unreadable and not skip:
        raise DataError(describe_unreadable(unreadable, len(table)))
    if len(unreadable) == len(table):
        raise DataError(f"{table.source}: none of its {len(table)} images can be read.")
    if unreadable:
        kept_rows(table, unreadable)


def directions(pixels: Sequence[UInt8[np.ndarray, "b p"]]) -> Float32[np.ndarray, "n p"]:
    """Return pictures as they are, their mean removed and of unit length, so that a product is a cosine."""
    rows = np.concatenate([part.astype(np.float32) / 255 for part in pixels])
    rows -= rows.mean(axis=1, keepdims=True)
    # A picture of one colour has no direction; a tiny floor leaves it at zero instead of NaN.
    rows /= np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-8)
    return rows

"""Thumbnails inside the page: small pictures as data addresses, and one sheet of tiles for the map."""

import base64
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from PIL import Image, ImageOps

from nearfar.data.table import Table
from nearfar.report.decoding import CRISP, Small

# A sheet larger than this is encoded again with smaller tiles: the page stays far below 10 MB.
SHEET_BYTES = 4_500_000
GREY = (128, 128, 128)


@dataclass(frozen=True)
class Sheet:
    """Many tiles in one picture: tile ``i`` stands in row ``i // columns``, column ``i % columns``."""

    uri: str
    tile: int
    columns: int
    rows: int
    size: int


class Thumbnails:
    """The pictures of a table at the sizes at which a page shows them.

    Pictures of at most 64 pixels are kept as they are and shown at an integer scale with crisp pixels;
    larger ones are shrunk to the size shown. A picture that is not square shows its middle. Each is decoded
    once, and taken from ``small`` if it was decoded before.
    """

    def __init__(self, table: Table, small: Small | None = None) -> None:
        self.table = table
        self.small = Small() if small is None else small
        self._uris: dict[tuple[int, int], str] = {}

    @cached_property
    def native(self) -> int:
        """The shorter side of a typical picture, in pixels."""
        some = np.linspace(0, len(self.table) - 1, min(9, len(self.table))).astype(int)
        return int(np.median([min(self.image(int(row)).size) for row in some]))

    @property
    def crisp(self) -> bool:
        """Whether the pictures are so small that they are shown pixel by pixel."""
        return self.native <= CRISP

    def shown(self, wanted: int) -> int:
        """The side at which a picture is shown where ``wanted`` would suit the page best."""
        if not self.crisp:
            return wanted
        return self.native * max(1, round(wanted / self.native - 0.2))

    def image(self, row: int) -> Image.Image:
        """The middle of the picture as a square, at most as large as a page shows it."""
        return self.small.image(self.table.path[row])

    def square(self, row: int, side: int) -> Image.Image:
        """The middle of the picture as a square of at most ``side`` pixels a side."""
        image = self.image(row)
        return (
            ImageOps.fit(image, (side, side), Image.Resampling.LANCZOS)
            if image.size != (side, side)
            else image
        )

    def uri(self, row: int, shown: int) -> str:
        """The picture as a WebP data address, for a place of ``shown`` pixels a side."""
        side = self.native if self.crisp else shown
        if (row, side) not in self._uris:
            self._uris[row, side] = webp(self.square(row, side), 90 if self.crisp else 82)
        return self._uris[row, side]

    def strip(self, rows: Sequence[int], shown: int, gap: int = 2) -> str:
        """Several pictures in one row on neutral grey, as one data address."""
        side = self.native if self.crisp else shown
        image = Image.new("RGB", ((side + gap) * len(rows) + gap, side + 2 * gap), GREY)
        for place, row in enumerate(rows):
            image.paste(self.square(row, side), (gap + place * (side + gap), gap))
        return webp(image, 90 if self.crisp else 82)

    def sheet(self, rows: Sequence[int], progress: Callable[[int, int], None] | None = None) -> Sheet:
        """All the pictures named, in one data address; the tiles shrink until the sheet is small enough."""
        side = min(self.native, 64 if len(rows) <= 1500 else 48)
        tiles = []
        for place, row in enumerate(rows):
            tiles.append(self.square(row, side))
            if progress is not None:
                progress(place + 1, len(rows))
        columns = max(1, int(np.ceil(np.sqrt(len(rows)))))
        count = max(1, -(-len(rows) // columns))
        while True:
            image = Image.new("RGB", (columns * side, count * side), GREY)
            for place, tile in enumerate(tiles):
                fitted = (
                    tile if tile.size == (side, side) else tile.resize((side, side), Image.Resampling.LANCZOS)
                )
                image.paste(fitted, (place % columns * side, place // columns * side))
            uri = webp(image, 85)
            if len(uri) <= SHEET_BYTES or side <= 16:
                return Sheet(uri, side, columns, count, len(rows))
            side = max(16, side * 3 // 4)


def webp(image: Image.Image, quality: int) -> str:
    """Encode a picture as a WebP data address."""
    buffer = io.BytesIO()
    image.save(buffer, "WEBP", quality=quality, method=4)
    return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode()

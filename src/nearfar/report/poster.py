"""The picture that people share: the sentence, and six queries with their neighbours before and after."""

import io
from collections.abc import Mapping, Sequence
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from nearfar.report.pictures import Thumbnails

INK, SOFT, PAPER = (22, 24, 29), (91, 98, 112), (255, 255, 255)
RIGHT, WRONG, ACCENT, EDGE = (21, 128, 61), (194, 38, 28), (36, 99, 235), (214, 218, 224)
MARGIN, TILE, QUERY, GAP = 72, 96, 144, 12


def draw_poster(
    summary: Mapping[str, Any],
    cards: Sequence[Mapping[str, Any]],
    thumbnails: Thumbnails,
    nouns: tuple[str, str],
) -> bytes:
    """Return the picture as PNG."""
    neighbours = max((len(line["tiles"]) for card in cards for line in card["lines"]), default=0)
    width_card = QUERY + 28 + neighbours * (TILE + GAP) - GAP
    lines = max((len(card["lines"]) for card in cards), default=1)
    height_card = lines * (TILE + 70) - 16
    columns = 2 if len(cards) > 1 else 1
    width = 2 * MARGIN + max(columns * width_card + (columns - 1) * 72, 1100)
    big, small = _font(46), _font(22)
    text = _wrap(summary["sentence"], big, width - 2 * MARGIN)
    top = MARGIN + len(text) * 60 + 40
    rows = -(-len(cards) // columns)
    image = Image.new("RGB", (width, top + rows * (height_card + 56) + MARGIN - 16), PAPER)
    pen = ImageDraw.Draw(image)
    for place, line in enumerate(text):
        pen.text((MARGIN, MARGIN + place * 60), line, INK, big)
    for place, card in enumerate(cards):
        x = MARGIN + place % columns * (width_card + 72)
        y = top + place // columns * (height_card + 56)
        _card(image, pen, card, thumbnails, x, y, height_card)
    foot = "nearfar · green and tick: the same " + nouns[1] + " · red and cross: another"
    pen.text((MARGIN, image.height - MARGIN + 12), foot, SOFT, small)
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def _card(
    image: Image.Image,
    pen: ImageDraw.ImageDraw,
    card: Mapping[str, Any],
    thumbnails: Thumbnails,
    x: int,
    y: int,
    height: int,
) -> None:
    middle = y + (height - QUERY) // 2
    _paste(image, thumbnails, card["query"], x, middle, QUERY)
    pen.rectangle((x - 1, middle - 1, x + QUERY, middle + QUERY), outline=EDGE, width=2)
    small = _font(20)
    pen.text((x, middle + QUERY + 10), "query", SOFT, small)
    for place, line in enumerate(card["lines"]):
        top = y + place * (TILE + 70)
        pen.text((x + QUERY + 28, top - 4), line["words"], ACCENT if line["kind"] == "after" else SOFT, small)
        row = line["row"]
        found = zip(row.neighbours, row.similarity, row.right, strict=True)
        for column, (near, similarity, right) in enumerate(found):
            left = x + QUERY + 28 + column * (TILE + GAP)
            _paste(image, thumbnails, near, left, top + 28, TILE)
            _verdict(pen, left, top + 28, right)
            pen.text(
                (left + TILE // 2, top + 28 + TILE + 7), f"{similarity:.2f}", SOFT, _font(16), anchor="mt"
            )


def _paste(image: Image.Image, thumbnails: Thumbnails, row: int, x: int, y: int, side: int) -> None:
    picture = thumbnails.image(row)
    crisp = max(picture.size) <= 64 and side % max(picture.size) == 0
    square = thumbnails.square(row, min(*picture.size, side))
    image.paste(
        square.resize((side, side), Image.Resampling.NEAREST if crisp else Image.Resampling.LANCZOS), (x, y)
    )


def _verdict(pen: ImageDraw.ImageDraw, x: int, y: int, right: bool) -> None:
    """A frame, and a mark in the corner: never colour alone."""
    colour = RIGHT if right else WRONG
    pen.rectangle((x - 4, y - 4, x + TILE + 3, y + TILE + 3), outline=colour, width=4)
    cx, cy = x + TILE - 9, y + TILE - 9
    pen.ellipse((cx - 13, cy - 13, cx + 13, cy + 13), fill=colour, outline=PAPER, width=2)
    if right:
        pen.line((cx - 6, cy, cx - 2, cy + 5, cx + 6, cy - 5), PAPER, 3)
    else:
        pen.line((cx - 5, cy - 5, cx + 5, cy + 5), PAPER, 3)
        pen.line((cx - 5, cy + 5, cx + 5, cy - 5), PAPER, 3)


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)


def _wrap(words: str, font: Any, width: float) -> list[str]:
    lines = [""]
    for word in words.split():
        longer = f"{lines[-1]} {word}".strip()
        if font.getlength(longer) <= width or not lines[-1]:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines

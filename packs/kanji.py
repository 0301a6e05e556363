"""The pack `kanji`: Japanese characters in eighteen typefaces. A class is a character, its images the faces.

Far from photographs: what a network learned from ImageNet does not help here, so this pack shows learning
from nothing. The faces are distinct hands: book faces, brushes, cursive, handwriting, bitmaps, outlines;
near-identical ones are left out. The characters are drawn from level 1 of JIS X 0208 (the 2,965 everyday
ones), among those that all faces have.
"""

import random
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from nearfar.data.packs.registry import Pack, Progress
from nearfar.errors import DataError, require
from packs import fetch


@dataclass(frozen=True)
class Face:
    """A typeface: the Debian package and the file in it, under ``usr/share/fonts``."""

    name: str
    package: str
    file: str
    licence: str


faces = (
    Face("mincho", "fonts-ipafont-mincho", "opentype/ipafont-mincho/ipam.ttf", "IPA font licence 1.0"),
    Face(
        "gothic",
        "fonts-morisawa-bizud-gothic",
        "truetype/bizud-gothic/BIZUDGothic-Regular.ttf",
        "OFL-1.1",
    ),
    Face(
        "old-print",
        "fonts-oradano-mincho-gsrr",
        "truetype/oradano-mincho/OradanoGSRR.ttf",
        "free, with its own terms",
    ),
    Face("rounded", "fonts-motoya-l-maruberi", "truetype/motoya-l-maruberi/MTLmr3m.ttf", "Apache-2.0"),
    Face("kai", "fonts-arphic-ukai", "truetype/arphic/ukai.ttc", "Arphic public licence"),
    Face("brush", "fonts-kouzan-mouhitsu", "truetype/kouzan-mouhitsu/kouzan-mouhitsu.ttf", "public domain"),
    Face(
        "running",
        "fonts-kouzan-mouhitsu",
        "truetype/kouzan-mouhitsu/kouzan-mouhitsu-gyosho.ttf",
        "public domain",
    ),
    Face(
        "cursive",
        "fonts-kouzan-mouhitsu",
        "truetype/kouzan-mouhitsu/KouzanBrushFontSousyo.ttf",
        "public domain",
    ),
    Face(
        "brush-light", "fonts-aoyagi-kouzan-t", "truetype/aoyagi-kouzan-t/AoyagiKouzanT.ttf", "public domain"
    ),
    Face("writer", "fonts-aoyagi-soseki", "truetype/aoyagi-soseki/aoyagi-soseki.ttf", "public domain"),
    Face("pen", "fonts-kiloji", "truetype/kiloji/kiloji.ttf", "BSD-3-Clause"),
    Face("child", "fonts-seto", "truetype/seto/setofont.ttf", "OFL-1.1"),
    Face("marker", "fonts-yusei-magic", "truetype/yusei-magic/YuseiMagic-Regular.ttf", "OFL-1.1"),
    Face("poster", "fonts-reggae", "truetype/reggae/ReggaeOne-Regular.ttf", "OFL-1.1"),
    Face("outline", "fonts-train", "truetype/train/TrainOne-Regular.ttf", "OFL-1.1"),
    Face("dots-16", "fonts-dotgothic16", "truetype/dotgothic16/DotGothic16-Regular.ttf", "OFL-1.1"),
    Face("dots-8", "fonts-misaki", "truetype/misaki/misaki_gothic_2nd.ttf", "free, with its own terms"),
    Face(
        "stroke-order",
        "fonts-kanjistrokeorders",
        "truetype/kanjistrokeorders/KanjiStrokeOrders_v4.003.ttf",
        "BSD-3-Clause",
    ),
)


def build(pack: Pack, folder: Path, progress: Progress | None) -> list[str]:
    """Download the fonts and draw each character in each face.

    Returns:
        The credits, a line each.
    """
    require("fontTools", "packs")
    files = {face.name: _file(face, pack.name) for face in faces}
    characters = choose([covered(file) for file in files.values()], pack.classes)
    for character in characters:
        (folder / class_name(character)).mkdir()
    for done, (name, file) in enumerate(files.items(), start=1):
        font = ImageFont.truetype(file, pack.size * 7 // 8, layout_engine=ImageFont.Layout.BASIC)
        for character in characters:
            picture = draw(character, font, pack.size)
            if picture is not None:
                picture.save(folder / class_name(character) / f"{name}.png", optimize=True)
        if progress is not None:
            progress(done, len(files), name)
    return [f"{face.name}: {face.licence}, Debian package {face.package}" for face in faces]


def class_name(character: str) -> str:
    """``u4e00`` for 一: a name that every file system takes."""
    return f"u{ord(character):04x}"


def everyday() -> list[str]:
    """The characters of level 1 of JIS X 0208: rows 16 to 47."""
    cells = (bytes([row + 0xA0, cell + 0xA0]) for row in range(16, 48) for cell in range(1, 95))
    return [character for code in cells if (character := code.decode("euc_jp", "ignore"))]


def covered(file: Path) -> set[int]:
    """Code points that a font file has."""
    from fontTools.ttLib import TTFont

    with TTFont(file, fontNumber=0, lazy=True) as font:
        return set(font.getBestCmap() or {})


def choose(coverage: list[set[int]], count: int) -> list[str]:
    """``count`` everyday characters that all fonts have, drawn with seed 0 and sorted."""
    possible = [character for character in everyday() if all(ord(character) in points for points in coverage)]
    return sorted(random.Random(0).sample(possible, min(count, len(possible))))


def draw(character: str, font: ImageFont.FreeTypeFont, size: int) -> Image.Image | None:
    """Black on white, in the middle; None when the font has an empty or tiny glyph for it."""
    left, top, right, bottom = font.getbbox(character)
    if right - left < size / 6 and bottom - top < size / 6:
        return None
    picture = Image.new("L", (size, size), 255)
    place = (round((size - left - right) / 2), round((size - top - bottom) / 2))
    ImageDraw.Draw(picture).text(place, character, font=font, fill=0)
    return picture if np.asarray(picture).min() <= 128 else None


def _file(face: Face, pack: str) -> Path:
    place = "usr/share/fonts"
    file = fetch.debian(face.package, (place, f"usr/share/doc/{face.package}/copyright"), pack=pack) / place
    if not (file / face.file).is_file():
        raise DataError(
            f"the pack {pack!r} expects {face.file} in the Debian package {face.package}, but the version of "
            "this system does not hold it; Debian 12 does."
        )
    return file / face.file

"""The pack `emoji`: the same emoji drawn by eight vendors. A class is a code point, its images the drawings.

The vendors drew independently: sets that copy or recolour another one are left out. So are classes that
people could not tell apart either: flags, family variants joined from parts, keycaps, plain shapes, clock
faces, and signs that are mirror images of each other.
"""

import io
import json
import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from nearfar.data.packs.registry import Pack, Progress
from nearfar.errors import require
from packs import fetch

fewest_vendors = 4


@dataclass(frozen=True)
class Vendor:
    """Who drew a set, and the npm package that carries it."""

    name: str
    package: str
    version: str
    title: str
    licence: str


vendors = (
    Vendor("noto", "@iconify-json/noto", "1.2.9", "Noto Emoji, Google", "Apache-2.0"),
    Vendor("noto-v1", "@iconify-json/noto-v1", "1.2.5", "Noto Emoji v1 (the blobs), Google", "Apache-2.0"),
    Vendor("twemoji", "@iconify-json/twemoji", "1.2.5", "Twemoji, Twitter", "CC-BY-4.0"),
    Vendor("openmoji", "@iconify-json/openmoji", "1.2.29", "OpenMoji, HfG Schwäbisch Gmünd", "CC-BY-SA-4.0"),
    Vendor("emojione", "@iconify-json/emojione", "1.2.3", "EmojiOne 2.3, Ranks.com", "CC-BY-4.0"),
    Vendor("emojione-v1", "@iconify-json/emojione-v1", "1.2.3", "EmojiOne v1, Ranks.com", "CC-BY-SA-4.0"),
    Vendor("fxemoji", "@iconify-json/fxemoji", "1.2.2", "Firefox OS Emoji, Mozilla", "Apache-2.0"),
    Vendor("fluent", "@lobehub/fluent-emoji-3d", "1.1.0", "Fluent Emoji 3D, Microsoft", "MIT"),
)

# Inclusive ranges of code points that make no class of their own.
_left_out = (
    (0x1F1E6, 0x1F1FF),  # letters that make flags
    (0xE0000, 0xE007F),  # tags that make flags
    (0x200D, 0x200D),  # joins parts: families, professions
    (0x20E3, 0x20E3),  # keycaps
    (0x1F3FB, 0x1F3FF),  # skin tones
    (0x1F9B0, 0x1F9B3),  # hair
    (0xE000, 0xF8FF),  # private use: OpenMoji's own inventions
    (0x1F550, 0x1F567),  # clock faces
    (0x2190, 0x21FF),  # arrows, most of them mirror images of each other
    (0x27A1, 0x27A1),
    (0x2934, 0x2935),
    (0x2B05, 0x2B07),
    (0x1F500, 0x1F504),
    (0x1F519, 0x1F51D),
    (0x1F53C, 0x1F53D),
    (0x23E9, 0x23EF),  # buttons of a player: triangles and their mirror images
    (0x23F8, 0x23FA),
    (0x25B6, 0x25B6),
    (0x25C0, 0x25C0),
    (0x1F311, 0x1F318),  # phases of the moon
    (0x1F31B, 0x1F31C),
    (0x1F448, 0x1F449),  # hands and their mirror images
    (0x1F91B, 0x1F91C),
    (0x1FAF1, 0x1FAF2),
    (0x1FAF7, 0x1FAF8),
    (0x1F50E, 0x1F50E),  # the other magnifying glass
    (0x1F5E8, 0x1F5E8),  # the other speech bubble
)
# Icons that are not what their name means elsewhere, or that cannot be drawn.
_misnamed = {
    ("emojione-v1", "keyboard"),  # of a piano
    ("fxemoji", "keyboard"),
    ("emojione-v1", "window"),  # of a screen
    ("fxemoji", "window"),
    ("fxemoji", "kiss"),  # a kissing face, not a kissing couple
    ("fxemoji", "star"),  # there is a second one
    ("fxemoji", "tramcar"),  # a black patch
}
_shapes = re.compile(r"square|circle$|diamond|triangle|multiply")


def build(pack: Pack, folder: Path, progress: Progress | None) -> list[str]:
    """Download the vendors' packages and draw every emoji that at least four of them have.

    Returns:
        The credits, a line each.
    """
    require("resvg_py", "packs")
    sources = {vendor.name: fetch.npm(vendor.package, vendor.version, pack=pack.name) for vendor in vendors}
    drawings, names = join(sources)
    chosen = {
        code: drawn
        for code, drawn in sorted(drawings.items())
        if len(drawn) >= fewest_vendors and wanted(code, names[code])
    }
    for done, (code, drawn) in enumerate(chosen.items(), start=1):
        pictures = {vendor: picture for vendor, one in drawn.items() if (picture := draw(one, pack.size))}
        if len(pictures) >= fewest_vendors:
            (folder / names[code]).mkdir()
            for vendor, picture in pictures.items():
                picture.save(folder / names[code] / f"{vendor}.png", optimize=True)
        if progress is not None:
            progress(done, len(chosen), "drawing emoji")
    return [
        f"{vendor.name}: {vendor.title}, {vendor.licence}, npm package {vendor.package} {vendor.version}"
        for vendor in vendors
    ]


def wanted(code: str, name: str) -> bool:
    """Whether an emoji, given by its code points as "1f468-200d-1f692" and its name, makes a class."""
    points = [int(point, 16) for point in code.split("-")]
    outside = not any(first <= point <= last for point in points for first, last in _left_out)
    return outside and not _shapes.search(name)


def join(sources: dict[str, Path]) -> tuple[dict[str, dict[str, str | Path]], dict[str, str]]:
    """Bring the vendors' drawings together on their code points.

    Some packages say the code point of each icon; the others only name it, in words of Unicode or of a vendor
    that does say. A name that can be read in two ways is left out.

    Returns:
        Drawings by code point and vendor (text of an SVG, or a file), and a name for each code point.
    """
    icons: dict[str, Any] = {}
    codes: dict[str, dict[str, str]] = {}
    for vendor, folder in sources.items():
        if (folder / "icons.json").is_file():
            icons[vendor] = json.loads((folder / "icons.json").read_text(encoding="utf-8"))
            codes[vendor] = json.loads((folder / "chars.json").read_text(encoding="utf-8"))
    readings = _readings(icons, codes)
    drawings: dict[str, dict[str, str | Path]] = defaultdict(dict)
    for vendor, folder in sources.items():
        if vendor not in icons:
            for file in sorted((folder / "assets").glob("*.webp")):
                drawings[_plain(file.stem)].setdefault(vendor, file)
            continue
        for code, name in _coded(icons[vendor], codes[vendor], readings):
            if (vendor, name) in _misnamed:
                continue
            drawings[code].setdefault(vendor, svg(icons[vendor], name))
    return drawings, _names(drawings, codes)


def _plain(code: str) -> str:
    """Without U+FE0F, which only asks for a coloured drawing."""
    return "-".join(point for point in code.lower().split("-") if point != "fe0f")


def _squashed(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


def _readings(icons: dict[str, Any], codes: dict[str, dict[str, str]]) -> dict[str, set[str]]:
    """Code points that a squashed name may stand for, by the coded packages and by Unicode."""
    readings: dict[str, set[str]] = defaultdict(set)
    for vendor, coded in codes.items():
        parents: dict[str, set[str]] = defaultdict(set)
        for code, name in coded.items():
            if wanted(_plain(code), ""):
                parents[name].add(_plain(code))
                readings[_squashed(name)].add(_plain(code))
        for alias, entry in icons[vendor].get("aliases", {}).items():
            if set(entry) == {"parent"}:  # another name; with more in it, a turned or mirrored drawing
                readings[_squashed(alias)] |= parents.get(entry["parent"], set())
    for code in set().union(*readings.values()):
        if "-" not in code:
            readings[_squashed(unicodedata.name(chr(int(code, 16)), code))].add(code)
    return readings


def _coded(
    icons: dict[str, Any], coded: dict[str, str], readings: dict[str, set[str]]
) -> Iterator[tuple[str, str]]:
    """(code point, icon name) of a package."""
    if coded:
        for code, name in coded.items():
            if name in icons["icons"]:
                yield _plain(code), name
        return
    for name in icons["icons"]:
        meant = readings.get(_squashed(name), set())
        if len(meant) == 1:
            yield next(iter(meant)), name


def _names(drawings: dict[str, dict[str, str | Path]], codes: dict[str, dict[str, str]]) -> dict[str, str]:
    """A name for each code point: that of the first vendor who names it and whose name is not taken."""
    offered: dict[str, list[str]] = defaultdict(list)
    for coded in codes.values():
        for code, name in coded.items():
            offered[_plain(code)].append(name)
    names: dict[str, str] = {}
    taken: set[str] = set()
    for code in sorted(drawings):
        names[code] = next((name for name in offered[code] if name not in taken), code)
        taken.add(names[code])
    return names


def svg(icons: dict[str, Any], name: str) -> str:
    """The text of an icon of an Iconify package."""
    icon = icons["icons"][name]
    width, height = (icon.get(side, icons.get(side, 16)) for side in ("width", "height"))
    left, top = (icon.get(edge, icons.get(edge, 0)) for edge in ("left", "top"))
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'viewBox="{left} {top} {width} {height}" width="{width}" height="{height}" color="#222">'
        f"{icon['body']}</svg>"
    )


def draw(drawing: str | Path, size: int) -> Image.Image | None:
    """A drawing on white, ``size`` pixels a side; None when nothing of it can be seen."""
    if isinstance(drawing, Path):
        with Image.open(drawing) as stored:
            picture = stored.convert("RGBA")
    else:
        import resvg_py

        rendered = resvg_py.svg_to_bytes(svg_string=drawing, width=size, height=size, skip_system_fonts=True)
        picture = Image.open(io.BytesIO(bytes(rendered))).convert("RGBA")
    if picture.size != (size, size):
        picture = _square(picture, size)
    white = Image.new("RGBA", (size, size), (255, 255, 255, 255))
    flat = Image.alpha_composite(white, picture).convert("RGB")
    return None if flat.getextrema() == ((255, 255),) * 3 else flat


def _square(picture: Image.Image, size: int) -> Image.Image:
    """Shrink or enlarge to fit ``size``, in the middle of a clear square."""
    scale = size / max(picture.size)
    fitted = picture.resize(
        (max(1, round(picture.width * scale)), max(1, round(picture.height * scale))),
        Image.Resampling.LANCZOS,
    )
    square = Image.new("RGBA", (size, size))
    square.paste(fitted, ((size - fitted.width) // 2, (size - fitted.height) // 2))
    return square

"""The builders on sources small enough to write down: two emoji, a font of matplotlib, two models of one face."""

import dataclasses
import json
import shutil
import zipfile
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from PIL import Image, ImageFont

from nearfar.data.packs import describe
from nearfar.errors import DataError
from packs import emoji, fetch, furniture, kanji, sweethome

FONT = Path(matplotlib.get_data_path()) / "fonts/ttf/DejaVuSans.ttf"


@pytest.fixture(autouse=True)
def downloads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("NEARFAR_CACHE", str(tmp_path / "cache"))
    return fetch.downloads()


# emoji


def disc(color: str) -> dict:
    return {"body": f'<circle cx="8" cy="8" r="6" fill="{color}"/>'}


@pytest.fixture
def vendors(downloads: Path) -> None:
    """Eight packages: a sun and a cat by all, a moon by three, and what must be left out."""
    names = {
        "2600": "sun",
        "1f408": "cat",
        "1f31a-fe0f": "moon-face",
        "1f1e6-1f1e8": "flag",
        "1f550": "one-oclock",
    }
    for vendor in emoji.vendors:
        name = vendor.package.removeprefix("@").replace("/", "-")
        folder = downloads / f"npm-{name}-{vendor.version}"
        (folder / "assets").mkdir(parents=True)
        if vendor.name == "fluent":
            for code in ("2600", "1f408"):
                Image.new("RGBA", (32, 16), (0, 200, 0, 255)).save(
                    folder / f"assets/{code}.webp", lossless=True
                )
            continue
        coded = vendor.name in {"noto", "twemoji", "openmoji"}
        icons = {name: disc("red") for name in names.values() if coded or name != "moon-face"}
        icons |= {} if coded else {"black-sun-with-rays": disc("blue"), "nonsense": disc("blue")}
        icons["cat"] = (
            {"body": "", **({"left": 0} if coded else {})} if vendor.name == "fxemoji" else disc("orange")
        )
        (folder / "icons.json").write_text(json.dumps({"icons": icons, "width": 16, "height": 16}))
        (folder / "chars.json").write_text(json.dumps(names if coded else {}))


def test_drawings_of_vendors_meet_on_their_code_point(vendors: None, tmp_path: Path) -> None:
    pack = describe("emoji")
    target = tmp_path / "out"
    target.mkdir()
    credits = emoji.build(pack, target, None)
    found = {folder.name: {path.stem for path in folder.iterdir()} for folder in target.iterdir()}
    everyone = {vendor.name for vendor in emoji.vendors}
    # The cat of fxemoji is blank; three vendors are too few for the moon; flags and clocks make no class.
    assert found == {"sun": everyone, "cat": everyone - {"fxemoji"}}
    assert len(credits) == 8
    with Image.open(target / "sun/fluent.png") as wide:
        pixels = np.asarray(wide)
    assert pixels.shape == (64, 64, 3)
    assert (pixels[32, 32] == (0, 200, 0)).all()
    assert (pixels[4, 32] == 255).all()  # a wide drawing stands in the middle, on white


def test_a_name_with_two_readings_is_not_used() -> None:
    readings = emoji._readings(
        {"a": {}, "b": {}}, {"a": {"1f604": "grin", "1f408": "cat"}, "b": {"1f601": "grin", "e001": "cat"}}
    )
    assert readings["grin"] == {"1f604", "1f601"}
    assert readings["cat"] == {"1f408"}  # private code points say nothing
    icons = {"icons": {"grin": {}, "Cat": {}, "other": {}}}
    assert list(emoji._coded(icons, {}, readings)) == [("1f408", "Cat")]


@pytest.mark.parametrize(
    ("code", "name", "kept"),
    [
        ("1f600", "grinning-face", True),
        ("1f1eb-1f1f7", "flag-france", False),
        ("1f468-200d-1f692", "man-firefighter", False),
        ("31-20e3", "keycap-1", False),
        ("1f44b-1f3fb", "waving-hand", False),
        ("1f7e5", "red-square", False),
        ("1f550", "one-oclock", False),
        ("2b05", "left-arrow", False),
        ("1f449", "backhand-index-pointing-right", False),
    ],
)
def test_what_makes_no_class_is_left_out(code: str, name: str, kept: bool) -> None:
    assert emoji.wanted(code, name) is kept


# kanji


def test_everyday_characters_are_level_one_of_the_standard() -> None:
    characters = kanji.everyday()
    assert len(characters) == 2965
    assert len(set(characters)) == 2965
    assert {"一", "愛", "亜", "腕"} <= set(characters)


def test_characters_are_those_that_all_fonts_have_and_the_choice_is_fixed() -> None:
    characters = kanji.everyday()
    every, half = {ord(c) for c in characters}, {ord(c) for c in characters[::2]}
    chosen = kanji.choose([every, half], 100)
    assert len(chosen) == 100
    assert {ord(c) for c in chosen} <= half
    assert chosen == kanji.choose([half, every], 100) == sorted(chosen)
    assert kanji.class_name("一") == "u4e00"


def test_a_glyph_is_drawn_in_the_middle_and_a_blank_one_is_not() -> None:
    font = ImageFont.truetype(FONT, 56, layout_engine=ImageFont.Layout.BASIC)
    picture = kanji.draw("H", font, 64)
    assert picture is not None
    ink = np.asarray(picture) < 128
    rows, columns = np.flatnonzero(ink.any(axis=1)), np.flatnonzero(ink.any(axis=0))
    assert abs(rows.min() + rows.max() - 63) <= 2
    assert abs(columns.min() + columns.max() - 63) <= 2
    assert kanji.draw("\u00a0", font, 64) is None


def test_kanji_are_built_from_the_fonts_of_the_packages(
    downloads: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    faces = tuple(
        kanji.Face(name, f"fonts-{name}", f"truetype/{name}.ttf", "free") for name in ("one", "two")
    )
    for face in faces:
        file = downloads / f"debian-{face.package}/usr/share/fonts" / face.file
        file.parent.mkdir(parents=True)
        shutil.copy(FONT, file)
    monkeypatch.setattr(kanji, "faces", faces)
    monkeypatch.setattr(kanji, "everyday", lambda: list("ABCDE一"))  # this font has no 一
    kanji_pack = dataclasses.replace(describe("kanji"), classes=4)
    (tmp_path / "out").mkdir()
    assert kanji.build(kanji_pack, tmp_path / "out", None) == [
        "one: free, Debian package fonts-one",
        "two: free, Debian package fonts-two",
    ]
    found = sorted(path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").glob("*/*"))
    assert len(found) == 8
    assert all(path.startswith("u004") for path in found)
    (downloads / "debian-fonts-two/usr/share/fonts/truetype/two.ttf").unlink()
    with pytest.raises(DataError, match=r"expects truetype/two\.ttf in the Debian package fonts-two"):
        kanji.build(kanji_pack, tmp_path / "out", None)


# furniture


@pytest.fixture
def libraries(downloads: Path) -> Path:
    """Five libraries of two models: a triangle, and one whose file is missing."""
    folder = downloads / "debian-sweethome3d-furniture/usr/share/sweethome3d/furniture"
    folder.mkdir(parents=True)
    for name in sweethome.licences:
        catalogue = (
            "id=all\nid#1=Lib#triA\nname#1=Chair\\u00e9\ncategory#1=Living room\ncreator#1=Ann\nmodel#1=/m/a.obj\n"
            "id#2=Lib#lost\nname#2=Lost\ncategory#2=Office\nmodel#2=/m/lost.obj\n"
        )
        with zipfile.ZipFile(folder / f"{name}.sh3f", "w") as out:
            out.writestr("PluginFurnitureCatalog.properties", catalogue)
            out.writestr("m/a.obj", "v 0 0 0\nv 1 0 0\nv 0 1 0.5\nf 1 2 3\n")
    return folder


@pytest.mark.parametrize(("name", "views"), [("furniture", 12), ("furniture-hard", 6)])
def test_furniture_is_drawn_by_separate_programs(
    libraries: Path, tmp_path: Path, name: str, views: int
) -> None:
    target, steps = tmp_path / "out", []
    target.mkdir()
    credits = furniture.build(describe(name), target, lambda *step: steps.append(step[0]))
    assert sorted(folder.name for folder in target.iterdir()) == [
        f"living-room--chair-{number}" for number in range(1, 6)
    ]
    assert steps == [1, 2, 3, 4, 5]
    assert len(list(target.glob("*/view-*.png"))) == 5 * views
    assert "chair-1: Chairé, by Ann, CC0-1.0, from BlendSwap-CC-0" in credits
    pictures = {path.read_bytes() for path in target.glob("*/*.png")}
    assert len(pictures) == 5 * views  # no two views alike


def test_a_broken_library_is_reported_by_the_pack(libraries: Path, tmp_path: Path) -> None:
    (libraries / "Scopia.sh3f").write_bytes(b"not a zip")
    (tmp_path / "out").mkdir()
    with pytest.raises(DataError, match=r"drawing the pack 'furniture' failed: .*not a zip file"):
        furniture.build(describe("furniture"), tmp_path / "out", None)

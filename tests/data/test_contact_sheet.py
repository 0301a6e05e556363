"""Contact sheets: what is shown, where, and at which scale."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nearfar.data import Table, contact_sheet
from nearfar.errors import DataError

BACKGROUND = (200, 200, 200)


@pytest.fixture
def table(tmp_path: Path) -> Table:
    """Six classes, each of one colour, three images of 40 x 20 pixels; the last two classes are for tests."""
    paths, labels = [], []
    for label in range(6):
        for number in range(3):
            paths.append(str(tmp_path / f"{label}-{number}.png"))
            labels.append(label)
            Image.new("RGB", (40, 20), (40 * label, 0, 255)).save(paths[-1])
    label = np.array(labels, dtype=np.int64)
    split = np.where(label < 4, "train", "test").astype(object)
    names = tuple(f"class-{number}" for number in range(6))
    return Table(np.array(paths, dtype=object), label, names, {"split": split}, "drawn", "colours")


def pixels(file: Path) -> np.ndarray:
    with Image.open(file) as picture:
        return np.asarray(picture.convert("RGB")).astype(int)


def shown(sheet: np.ndarray) -> dict[int, int]:
    """Pixels of each class of ``table``."""
    blue = (sheet[..., 2] == 255) & (sheet[..., 1] == 0)
    reds, counts = np.unique(sheet[blue][:, 0], return_counts=True)
    return {int(red) // 40: int(count) for red, count in zip(reds, counts, strict=True)}


def test_all_classes_are_shown_at_the_same_scale_on_grey(table: Table, tmp_path: Path) -> None:
    sheet = pixels(contact_sheet(table, tmp_path / "deep" / "sheet.png"))
    # 40 x 20 is enlarged to 96 x 48; three images in each of six rows.
    assert shown(sheet) == dict.fromkeys(range(6), 3 * 96 * 48)
    assert tuple(sheet[-1, -1]) == BACKGROUND


def test_rows_are_shared_between_the_parts_and_columns_are_limited(table: Table, tmp_path: Path) -> None:
    sheet = shown(pixels(contact_sheet(table, tmp_path / "sheet.png", classes=4, per_class=2)))
    assert len(sheet) == 4
    assert {4, 5} <= set(sheet)
    assert set(sheet.values()) == {2 * 96 * 48}


def test_images_are_two_pixels_apart(table: Table, tmp_path: Path) -> None:
    sheet = pixels(contact_sheet(table, tmp_path / "sheet.png", classes=2))
    row = np.flatnonzero((sheet[..., 2] == 255).any(axis=1))[10]
    columns = np.flatnonzero((sheet[row, :, 2] == 255) & (sheet[row, :, 1] == 0))
    assert np.diff(columns).max() == 3  # two pixels between


def test_the_seed_chooses_the_classes(table: Table, tmp_path: Path) -> None:
    plain = Table(table.path, table.label, table.classes)
    sheets = [
        set(shown(pixels(contact_sheet(plain, tmp_path / "s.png", classes=2, seed=seed))))
        for seed in range(8)
    ]
    assert len({frozenset(one) for one in sheets}) > 1
    assert sheets[3] == set(shown(pixels(contact_sheet(plain, tmp_path / "s.png", classes=2, seed=3))))


def test_clear_pictures_are_shown_on_white(tmp_path: Path) -> None:
    Image.new("RGBA", (8, 8), (0, 0, 0, 0)).save(tmp_path / "clear.png")
    table = Table(np.array([str(tmp_path / "clear.png")], dtype=object), np.zeros(1, np.int64), ("a",))
    sheet = pixels(contact_sheet(table, tmp_path / "sheet.png"))
    assert (sheet == 255).all(axis=2).sum() == 96 * 96


def test_what_cannot_be_drawn_is_said(table: Table, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="at least one row and one column; got 0 x 8"):
        contact_sheet(table, tmp_path / "sheet.png", classes=0)
    with pytest.raises(DataError, match="'colours' has no image"):
        contact_sheet(table.select(np.zeros(18, dtype=bool)), tmp_path / "sheet.png")
    with pytest.raises(DataError, match=r"end it in \.png"):
        contact_sheet(table, tmp_path / "sheet.xyz")
    Path(table.path[0]).write_text("no picture")
    with pytest.raises(DataError, match=r"0-0\.png"):
        contact_sheet(table, tmp_path / "sheet.png")
    assert not (tmp_path / "sheet.png").exists()


def test_small_pictures_are_no_dots(tmp_path: Path) -> None:
    for name, size in (("small", 8), ("large", 800)):
        Image.new("RGB", (size, size), (40 if name == "small" else 80, 0, 255)).save(tmp_path / f"{name}.png")
    paths = np.array([str(tmp_path / f"{name}.png") for name in ("small", "large")], dtype=object)
    table = Table(paths, np.array([0, 1]), ("small", "large"))
    assert shown(pixels(contact_sheet(table, tmp_path / "sheet.png"))) == {1: 48 * 48, 2: 96 * 96}

"""Packs as tables: the shipped one for real, and the cache with builders that fail, stop or change their mind."""

import dataclasses
import shutil
import sys
import threading
import warnings
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image

from nearfar.cache import cache_folder
from nearfar.data import packs
from nearfar.data.packs import builders, registry, store
from nearfar.data.packs.registry import Pack, Progress
from nearfar.errors import DataError

Builder = Callable[[Pack, Path, Progress | None], list[str]]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("NEARFAR_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def paint(folder: Path, classes: int = 6, images: int = 2, shade: int = 0) -> None:
    for name in range(classes):
        (folder / f"class-{name}").mkdir()
        for number in range(images):
            Image.new("RGB", (4, 4), (name * 20, number * 50, shade)).save(
                folder / f"class-{name}/{number}.png"
            )


@pytest.fixture
def define(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[Builder], Pack]:
    """Add a pack 'toy' with the builder given, and the checksum of ``paint``."""

    def add(build: Builder) -> Pack:
        module = ModuleType("packs.toy")
        module.build = build  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, module.__name__, module)
        example = tmp_path / "example"
        shutil.rmtree(example, ignore_errors=True)
        example.mkdir()
        paint(example)
        toy = dataclasses.replace(
            packs.describe("objects"), name="toy", builder="toy", checksum=store.checksum(example)
        )
        monkeypatch.setattr(registry, "_packs", (*registry._packs, toy))
        return toy

    return add


def test_names_and_definitions_need_no_build(cache: Path) -> None:
    assert packs.names() == ["objects", "emoji", "furniture", "furniture-hard", "kanji"]
    for name in packs.names():
        pack = packs.describe(name)
        assert pack.name == name
        assert pack.licence
        assert pack.source
        assert len(pack.checksum) == 64
        assert pack.flip == (name not in {"emoji", "kanji"})  # writing must not be mirrored
    assert not cache.exists()


def test_an_unknown_pack_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(DataError, match=r"no pack named 'object'.* Did you mean 'objects'\?"):
        packs.load("object")


def test_an_installed_nearfar_says_where_the_builders_are(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(builders, "CHECKOUT", tmp_path)
    with pytest.raises(
        DataError, match=r"its builder is part of the source repository .* data emoji --build$"
    ):
        packs.load("emoji")
    assert len(packs.load("objects")) == 1400


def test_objects_are_what_is_published() -> None:
    pack = packs.describe("objects")
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # another checksum would warn
        table = packs.load("objects")
    assert table.counts() == {"images": pack.images, "classes": pack.classes, "per_class": (8, 8.0, 8)}
    with Image.open(table.path[0]) as picture:
        assert picture.size == (pack.size, pack.size)
    train, test = (table.select(table.columns["split"] == part) for part in ("train", "test"))
    assert (train.class_count(), test.class_count()) == (87, 88)
    assert not set(train.label) & set(test.label)
    assert "CC0-1.0" in (Path(table.path[0]).parents[1] / "CREDITS.txt").read_text()


def test_pixels_alone_find_four_in_ten_objects() -> None:
    """The easy baseline that a trained network must beat."""
    table = packs.load("objects")
    test = table.select(table.columns["split"] == "test")
    pixels = []
    for path in test.path:
        with Image.open(path) as picture:
            small = picture.resize((32, 32), Image.Resampling.BOX)
        pixels.append(np.asarray(small, np.float64).ravel())
    rows = np.stack(pixels)
    rows -= rows.mean(axis=1, keepdims=True)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    similarity = rows @ rows.T
    np.fill_diagonal(similarity, -np.inf)
    recall = (test.label[similarity.argmax(axis=1)] == test.label).mean()
    assert recall == pytest.approx(0.420, abs=0.005)


def test_the_second_load_builds_nothing(define: Callable[[Builder], Pack]) -> None:
    built = []

    def build(pack: Pack, folder: Path, progress: Progress | None) -> list[str]:
        built.append(pack.name)
        paint(folder)
        return ["a credit"]

    define(build)
    first, second = packs.load("toy"), packs.load("toy")
    assert built == ["toy"]
    assert first.path.tolist() == second.path.tolist()
    assert first.classes == tuple(f"class-{name}" for name in range(6))


def test_a_stopped_build_leaves_nothing_and_the_next_one_starts_clean(
    define: Callable[[Builder], Pack], cache: Path
) -> None:
    attempts = []

    def build(pack: Pack, folder: Path, progress: Progress | None) -> list[str]:
        attempts.append(sorted(path.name for path in folder.iterdir()))
        paint(folder)
        if len(attempts) == 1:
            raise KeyboardInterrupt
        return []

    toy = define(build)
    with pytest.raises(KeyboardInterrupt):
        packs.load("toy")
    assert [path.name for path in cache.iterdir() if path.is_dir()] == []
    (cache / f"{toy.folder}.1.tmp" / "left-by-a-killed-process").mkdir(parents=True)
    assert len(packs.load("toy")) == 12
    assert attempts == [[], []]
    assert [path.name for path in cache.iterdir() if path.is_dir()] == [toy.folder]


def test_a_pack_with_a_lost_file_is_made_again(define: Callable[[Builder], Pack]) -> None:
    def build(pack: Pack, folder: Path, progress: Progress | None) -> list[str]:
        paint(folder)
        return []

    define(build)
    lost = Path(packs.load("toy").path[3])
    lost.unlink()
    assert packs.load("toy").path[3] == str(lost)
    assert lost.is_file()


def test_other_pixels_than_the_published_ones_warn(define: Callable[[Builder], Pack]) -> None:
    def build(pack: Pack, folder: Path, progress: Progress | None) -> list[str]:
        paint(folder, shade=9)
        return []

    define(build)
    with pytest.warns(UserWarning, match="the pack 'toy' in .* differ from the published ones"):
        packs.load("toy")


def test_two_at_once_build_once(define: Callable[[Builder], Pack]) -> None:
    built, tables = [], []

    def build(pack: Pack, folder: Path, progress: Progress | None) -> list[str]:
        built.append(1)
        paint(folder)
        return []

    define(build)
    threads = [threading.Thread(target=lambda: tables.append(packs.load("toy"))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(tables) == 3
    assert len(built) == 1


def test_another_folder_and_progress_can_be_given(
    define: Callable[[Builder], Pack], tmp_path: Path, cache: Path
) -> None:
    def build(pack: Pack, folder: Path, progress: Progress | None) -> list[str]:
        paint(folder)
        assert progress is not None
        progress(6, 6, "painting")
        return []

    define(build)
    steps: list[tuple[int, int, str]] = []
    table = packs.load("toy", folder=tmp_path / "here", progress=lambda *step: steps.append(step))
    assert table.path[0].startswith(str(tmp_path / "here"))
    assert steps[-1] == (6, 6, "painting")
    assert not cache.exists()


def test_halves_do_not_depend_on_the_order_of_the_classes() -> None:
    names = [f"class-{number}" for number in range(11)]
    assert store.halves(names) == store.halves(names[::-1])
    assert sorted(store.halves(names).values()) == ["test"] * 6 + ["train"] * 5


@pytest.mark.slow
@pytest.mark.parametrize("name", ["emoji", "furniture", "furniture-hard", "kanji"])
def test_what_the_cache_holds_is_what_is_published(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Reads every pixel of the packs built on this machine; builds none, as that needs the network."""
    monkeypatch.delenv("NEARFAR_CACHE")
    pack = packs.describe(name)
    place = cache_folder() / pack.folder
    if not (place / "pack.json").is_file():
        pytest.skip(f"the pack {name} is not built here: nearfar data {name} --build")
    table = packs.load(name)
    assert (len(table), table.class_count()) == (pack.images, pack.classes)
    assert store.checksum(place) == pack.checksum

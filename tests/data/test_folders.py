"""Folders as people have them: all kinds of pictures, links, parts by other names, folders in folders."""

import logging
import os
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, features

from nearfar.data import Table, decode, read_table
from nearfar.data.listing import picture_endings, pictures_under
from nearfar.errors import DataError

ENDINGS = (
    "png PNG jpg jpeg jfif Jpe ppm pgm pbm pnm tga bmp BMP gif webp tif TIFF jp2 j2k jpx ico sgi dds qoi pcx"
)


def of_classes(table: Table) -> Counter[str]:
    return Counter(table.classes[label] for label in table.label)


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.WARNING, "nearfar")
    return caplog


class TestEndings:
    @pytest.mark.parametrize("ending", [*ENDINGS.split(), *(["avif"] if features.check("avif") else [])])
    def test_what_pillow_opens_is_read(self, tmp_path: Path, ending: str, log) -> None:
        picture = Image.fromarray(np.full((16, 16, 3), (200, 20, 20), np.uint8))
        if ending in ("pgm", "pbm"):
            picture = picture.convert("L" if ending == "pgm" else "1")
        for name in ("cat", "dog"):
            (tmp_path / name).mkdir()
            kind = Image.registered_extensions()[f".{ending.lower()}"]
            with (tmp_path / name / f"0.{ending}").open("wb") as file:
                picture.save(file, kind)
        table = read_table(tmp_path)
        assert len(table) == 2
        assert decode(table.path[0]).size == (16, 16)
        assert not log.text

    def test_formats_that_pillow_only_knows_by_sight_are_none(self) -> None:
        assert not picture_endings() & {".eps", ".ps", ".pdf", ".h5", ".hdf", ".mpg", ".wmf", ".grib", ".txt"}

    def test_what_is_left_out_is_counted_by_ending(self, folder: Path, log) -> None:
        for name in ("cats/a.txt", "cats/b.TXT", "dogs/deep/c.heic", "owls/README", "d.csv"):
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_text("no picture")
        assert len(read_table(folder)) == 9
        told = "files that are no pictures are left out: 5 (.txt 2, .csv 1, .heic 1, no ending 1)"
        assert Counter(log.text[log.text.index("(") + 1 : log.text.index(")")].split(", ")) == Counter(
            told[told.index("(") + 1 : -1].split(", ")
        )
        assert log.text.count("\n") == 1

    def test_where_nothing_else_is_there_it_is_said(self, tmp_path: Path) -> None:
        for name in ("a", "b"):
            (tmp_path / name).mkdir()
            (tmp_path / name / "1.heic").write_text("")
        with pytest.raises(
            DataError, match=r"no image in them; expected .* that Pillow reads; found .heic 2\."
        ):
            read_table(tmp_path)

    def test_nothing_to_tell_of_a_clean_folder_and_hidden_names(self, paint, folder: Path, log) -> None:
        for name in (
            "set/.DS_Store",
            "set/cats/.x.png",
            "set/.git/x.png",
            "set/cats/.ipynb_checkpoints/x.png",
        ):
            paint(f"{name}" if name.endswith("png") else f"{name}.png")
        assert len(read_table(folder)) == 9
        assert not log.text

    def test_a_folder_named_like_a_picture(self, paint, folder: Path) -> None:
        paint("set/cats/deep.png/x.png")
        assert of_classes(read_table(folder))["cats"] == 4


class TestLinks:
    def test_linked_classes_and_files_are_read(self, paint, folder: Path, tmp_path: Path, log) -> None:
        paint("elsewhere/a.png")
        (folder / "newts").symlink_to(tmp_path / "elsewhere")
        (folder / "dogs" / "linked.png").symlink_to(paint("other.png"))
        table = read_table(folder)
        assert of_classes(table) == {"cats": 3, "dogs": 3, "newts": 1, "owls": 4}
        assert not log.text

    def test_linked_parts(self, paint, tmp_path: Path) -> None:
        for name in ("a", "b"):
            paint(f"one/{name}/1.png")
            paint(f"two/{name}/1.png")
        (tmp_path / "set").mkdir()
        (tmp_path / "set" / "train").symlink_to(tmp_path / "one")
        (tmp_path / "set" / "test").symlink_to(tmp_path / "two")
        assert Counter(read_table(tmp_path / "set").columns["split"].tolist()) == {"train": 2, "test": 2}

    @pytest.mark.parametrize("target", [".", "..", "../..", "deep"])
    def test_loops_end_and_are_named(self, paint, folder: Path, target: str, log) -> None:
        paint("set/cats/deep/er/x.png")
        (folder / "cats" / "deep" / "again").symlink_to(target if target != "deep" else ".")
        assert of_classes(read_table(folder)) == {"cats": 4, "dogs": 2, "owls": 4}
        assert (
            f"links to folders that are read anyway are not followed: 1 ('{Path('cats/deep/again')}')"
            in log.text
        )

    @pytest.mark.parametrize("target", [".", "cats"])
    def test_a_class_that_is_read_anyway(self, folder: Path, target: str, log) -> None:
        (folder / "kittens").symlink_to(target)
        assert of_classes(read_table(folder)) == {"cats": 3, "dogs": 2, "owls": 4}
        assert "are not followed: 1 ('kittens')" in log.text

    def test_a_loop_outside(self, paint, folder: Path, tmp_path: Path, log) -> None:
        paint("elsewhere/a/1.png")
        (tmp_path / "elsewhere" / "a" / "up").symlink_to("..")
        (folder / "newts").symlink_to(tmp_path / "elsewhere")
        assert of_classes(read_table(folder))["newts"] == 1
        assert f"are not followed: 1 ('{Path('newts/a/up')}')" in log.text

    def test_broken_links_are_named(self, folder: Path, log) -> None:
        (folder / "lost").symlink_to(folder / "nowhere")
        (folder / "cats" / "gone.png").symlink_to("nothing.png")
        (folder / "cats" / "self.png").symlink_to("self.png")
        assert len(read_table(folder)) == 9
        assert "links that lead nowhere are left out: 3 ('lost', 'cats/gone.png', …)" in log.text

    def test_one_file_in_two_classes_is_refused(self, folder: Path) -> None:
        (folder / "dogs" / "cat.png").symlink_to(folder / "cats" / "0.png")
        with pytest.raises(DataError, match=r"are one file, in the classes 'dogs' and 'cats'; remove a link"):
            read_table(folder)

    def test_one_file_twice_in_a_class_is_told(self, folder: Path, log) -> None:
        (folder / "cats" / "again.png").symlink_to("0.png")
        assert of_classes(read_table(folder))["cats"] == 4
        told = f"images that links list again: 1 ('{Path('cats/again.png')}'); each is kept, and finds itself"
        assert told in log.text


class TestParts:
    @pytest.mark.parametrize(
        "names",
        [
            ("Train", "Test", "Val"),
            ("TRAIN", "TEST", "VALID"),
            ("train", "test", "valid"),
            ("training", "Testing", "Validation"),
        ],
    )
    def test_by_any_case_and_usual_name(
        self, paint, tmp_path: Path, names: tuple[str, str, str], log
    ) -> None:
        for part in names:
            for name in ("a", "b"):
                paint(f"{part}/{name}/1.png")
        table = read_table(tmp_path)
        assert table.classes == ("a", "b")
        assert Counter(table.columns["split"].tolist()) == {"train": 2, "test": 2, "validation": 2}
        assert not log.text

    def test_query_and_gallery_by_any_case(self, paint, tmp_path: Path) -> None:
        for part in ("Query", "GALLERY"):
            for name in ("a", "b"):
                paint(f"{part}/{name}/{part}.png")
        table = read_table(tmp_path)
        assert table.columns["is_query"].tolist() == [Path(p).name == "Query.png" for p in table.path]
        assert (table.columns["is_query"] ^ table.columns["is_gallery"]).all()

    @pytest.mark.parametrize("names", [("train", "Train", "test"), ("train", "test", "val", "valid")])
    def test_two_folders_for_one_part(self, paint, tmp_path: Path, names: tuple[str, ...]) -> None:
        for part in names:
            paint(f"{part}/a/1.png")
        if len(os.listdir(tmp_path)) < len(names):
            pytest.skip("this file system does not tell capitals apart")
        with pytest.raises(DataError, match="has two folders for one part"):
            read_table(tmp_path)

    @pytest.mark.parametrize("flat", [["test"], ["train", "test"], ["Test"]])
    def test_images_of_no_class_in_a_part(self, paint, tmp_path: Path, flat: list[str]) -> None:
        for part in {"train", *flat}:
            paint(f"{part}/1.png" if part in flat else f"{part}/a/1.png")
        with pytest.raises(DataError, match=r"holds 1 images \('1.png', …\) and no class folder; put"):
            read_table(tmp_path)

    def test_an_empty_part_leaves_the_others(self, paint, tmp_path: Path) -> None:
        paint("train/a/1.png")
        paint("train/b/1.png")
        (tmp_path / "test").mkdir()
        assert set(read_table(tmp_path).columns["split"]) == {"train"}

    def test_a_class_called_test_is_told(self, paint, tmp_path: Path, log) -> None:
        paint("test/1.png")
        paint("drive/1.png")
        assert read_table(tmp_path).classes == ("drive", "test")
        assert "the folder 'test' has no class folders in it and is read as a class" in log.text

    def test_images_beside_the_classes_of_a_part(self, paint, tmp_path: Path, log) -> None:
        for name in ("train/a/1.png", "train/b/1.png", "train/stray.png", "test/a/1.png"):
            paint(name)
        assert len(read_table(tmp_path)) == 3
        assert "images outside any class folder are left out: 1 ('stray.png')" in log.text


class TestNested:
    @pytest.fixture
    def nested(self, paint, tmp_path: Path) -> Path:
        for name in (
            "animal/cat/1",
            "animal/cat/2",
            "animal/dog/1",
            "thing/cup/1",
            "thing/cup/tall/1",
            "plain/1",
        ):
            paint(f"{name}.png")
        return tmp_path

    def test_the_top_folders_are_the_classes_and_that_is_told(self, nested: Path, log) -> None:
        assert of_classes(read_table(nested)) == {"animal": 3, "thing": 2, "plain": 1}
        assert "its 3 folders are the classes, and the 5 folders with images in and below them" in log.text
        assert "data.classes = 'leaf'" in log.text

    def test_or_each_folder_with_images(self, nested: Path, log) -> None:
        expected = {"animal/cat": 2, "animal/dog": 1, "thing/cup": 1, "thing/cup/tall": 1, "plain": 1}
        table = read_table(nested, classes="leaf")
        assert of_classes(table) == expected
        assert list(table.classes) == sorted(expected)
        assert not log.text

    def test_in_parts(self, paint, tmp_path: Path) -> None:
        for name in ("train/x/a/1", "train/x/b/1", "test/x/a/1"):
            paint(f"{name}.png")
        assert read_table(tmp_path, classes="leaf").classes == ("x/a", "x/b")

    def test_one_folder_a_class_deeper_is_nothing_to_tell(self, paint, tmp_path: Path, log) -> None:
        paint("cat/images/1.png")
        paint("dog/images/1.png")
        assert read_table(tmp_path).classes == ("cat", "dog")
        assert not log.text

    def test_another_word(self, nested: Path) -> None:
        with pytest.raises(DataError, match="classes are the 'top' folders or each 'leaf'; got 'deep'"):
            read_table(nested, classes="deep")


class TestNames:
    def test_bytes_that_are_not_utf8(self, paint, folder: Path) -> None:
        try:
            os.rename(os.fsencode(folder / "cats"), os.fsencode(folder) + b"/c\xe4ts")
        except OSError:
            pytest.skip("this file system takes UTF-8 only")
        table = read_table(folder)
        assert r"c\xe4ts" in table.classes
        assert all(name.encode() for name in table.classes)
        assert decode(table.path[0]).size == (24, 20)

    def test_what_is_logged_moves_no_cursor(self, folder: Path, log) -> None:
        (folder / "bad\x1b[31m").mkdir()
        (folder / "cats" / "x.\x1b]0;t\x07").write_text("")
        read_table(folder)
        assert "\x1b" not in log.text
        assert r"bad\x1b[31m" in log.text


def test_every_reader_takes_the_same(paint, folder: Path) -> None:
    for name in ("set/.h/x.png", "set/cats/.x.png", "set/cats/b.JPE"):
        paint(f"{name[:-4]}.png")
    os.rename(folder / "cats" / "b.png", folder / "cats" / "b.JPE")
    assert pictures_under(folder).pictures == read_table(folder).path.tolist()

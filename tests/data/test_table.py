"""A data set out of folders, CSV and Parquet, and what is said when it cannot be read."""

import logging
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from nearfar.data import Table, read_table
from nearfar.errors import DataError


def rows(table: Table) -> list[tuple[str, str]]:
    return [
        (Path(path).name, table.classes[label]) for path, label in zip(table.path, table.label, strict=True)
    ]


def write_csv(folder: Path, text: str) -> Path:
    (folder / "table.csv").write_text(text, encoding="utf-8")
    return folder / "table.csv"


class TestFolder:
    def test_classes_in_ascii_order(self, paint, tmp_path: Path) -> None:
        for name in ("b", "B", "a"):
            paint(f"{name}/1.png")
        table = read_table(tmp_path)
        assert table.classes == ("B", "a", "b")
        assert table.label.tolist() == [0, 1, 2]
        assert all(Path(path).is_absolute() for path in table.path)
        assert table.name == tmp_path.name

    def test_counts(self, folder: Path) -> None:
        table = read_table(folder)
        assert table.counts() == {"images": 9, "classes": 3, "per_class": (2, 3.0, 4)}
        assert (len(table), table.class_count()) == (9, 3)
        assert "9 images of 3 classes" in repr(table)

    def test_endings_of_any_case_and_no_dot_files(self, paint, folder: Path) -> None:
        paint("set/cats/UPPER.PNG")
        paint("set/cats/.hidden.png")
        paint("set/.thumbnails/a.png")
        (folder / "cats" / "notes.txt").write_text("not an image")
        assert [name for name, c in rows(read_table(folder)) if c == "cats"] == [
            "0.png",
            "1.png",
            "2.png",
            "UPPER.PNG",
        ]

    def test_images_deeper_in_a_class_and_no_class_twice(self, paint, folder: Path) -> None:
        paint("set/cats/deep/er/x.png")
        (folder / "link").symlink_to(folder / "cats")
        table = read_table(folder)
        assert ("x.png", "cats") in rows(table)
        assert "link" not in table.classes

    def test_parts(self, paint, tmp_path: Path) -> None:
        for part, name in (("train", "a"), ("train", "b"), ("val", "c"), ("test", "d"), ("test", "a")):
            paint(f"{part}/{name}/1.png")
        table = read_table(tmp_path)
        found = dict(zip(table.path, table.columns["split"], strict=True))
        assert {(Path(p).parts[-3], s) for p, s in found.items()} == {
            ("train", "train"),
            ("val", "validation"),
            ("test", "test"),
        }
        assert table.classes == ("a", "b", "c", "d")
        assert "is_query" not in table.columns

    def test_query_and_gallery(self, paint, tmp_path: Path) -> None:
        for part in ("query", "gallery"):
            for name in ("a", "b"):
                paint(f"{part}/{name}/{part}.png")
        table = read_table(tmp_path)
        assert set(table.columns["split"]) == {"test"}
        assert [Path(p).name == "query.png" for p in table.path] == table.columns["is_query"].tolist()
        assert (table.columns["is_query"] ^ table.columns["is_gallery"]).all()

    def test_query_without_gallery(self, paint, tmp_path: Path) -> None:
        paint("query/a/1.png")
        paint("query/b/1.png")
        with pytest.raises(DataError, match="has no folder 'gallery'"):
            read_table(tmp_path)

    def test_parts_beside_classes(self, paint, tmp_path: Path) -> None:
        paint("train/a/1.png")
        paint("cats/1.png")
        with pytest.raises(DataError, match=r"mixes parts \('train'\) and class folders \('cats'\)"):
            read_table(tmp_path)

    def test_a_class_called_test_is_a_class(self, paint, tmp_path: Path) -> None:
        paint("test/1.png")
        paint("drive/1.png")
        assert read_table(tmp_path).classes == ("drive", "test")

    def test_what_is_left_out_is_logged(self, paint, folder: Path, caplog: pytest.LogCaptureFixture) -> None:
        (folder / "empty").mkdir()
        paint("set/stray.png")
        with caplog.at_level(logging.WARNING, "nearfar"):
            table = read_table(folder)
        assert table.classes == ("cats", "dogs", "owls")
        assert "folders that hold no image are left out: 1 ('empty'" in caplog.text
        assert "images outside any class folder are left out: 1 ('stray.png'" in caplog.text

    def test_missing(self, tmp_path: Path) -> None:
        with pytest.raises(DataError) as caught:
            read_table(tmp_path / "brids")
        sentence = str(caught.value)
        assert sentence.startswith(f"no such folder: '{tmp_path / 'brids'}'; give a folder of class folders")
        assert "one of:" in sentence
        assert "objects" in sentence

    def test_a_pack_with_a_typo_is_suggested(self) -> None:
        with pytest.raises(DataError, match="Did you mean 'objects'"):
            read_table("objets")

    def test_one_class(self, paint, tmp_path: Path) -> None:
        paint("cats/1.png")
        with pytest.raises(DataError, match=r"has one class \('cats'\); metric learning needs at least two"):
            read_table(tmp_path)

    def test_empty(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match="is empty; put the images of each class"):
            read_table(tmp_path)

    def test_images_directly_inside(self, paint, tmp_path: Path) -> None:
        paint("1.png")
        paint("2.png")
        with pytest.raises(DataError, match=r"holds 2 images \('1.png', …\) and no class folder"):
            read_table(tmp_path)

    def test_folders_without_images(self, tmp_path: Path) -> None:
        (tmp_path / "cats").mkdir()
        with pytest.raises(DataError, match=r"holds 1 folders \('cats', …\) but no image in them"):
            read_table(tmp_path)

    def test_another_kind_of_file(self, tmp_path: Path) -> None:
        (tmp_path / "set.zip").write_bytes(b"PK")
        with pytest.raises(DataError, match=r"cannot read '.*set\.zip' as a table of images"):
            read_table(tmp_path / "set.zip")

    def test_options_are_for_packs(self, folder: Path) -> None:
        with pytest.raises(DataError, match=r"only a pack takes options.*\['colour'\]"):
            read_table(folder, colour="red")


class TestRows:
    def test_csv_with_optional_columns(self, folder: Path) -> None:
        file = write_csv(
            folder,
            "path,label,split,is_query,is_gallery,camera,sequence,x_1,y_1,x_2,y_2,note\n"
            "cats/0.png,cat,train,true,0,3,a,0,0,5,6.5,x\n"
            "dogs/0.png,dog,test,no,yes,12,b,1,2,3,4,y\n",
        )
        table = read_table(file)
        assert table.classes == ("cat", "dog")
        assert table.path[0] == str(folder / "cats" / "0.png")
        assert table.columns["split"].tolist() == ["train", "test"]
        assert table.columns["is_query"].tolist() == [True, False]
        assert table.columns["is_gallery"].tolist() == [False, True]
        assert table.columns["camera"].dtype == np.int64
        assert table.columns["sequence"].tolist() == ["a", "b"]
        assert table.columns["box"].tolist() == [[0, 0, 5, 6.5], [1, 2, 3, 4]]
        assert table.columns["note"].tolist() == ["x", "y"]
        assert table.name == "table"

    @pytest.mark.parametrize(
        ("labels", "classes"),
        [
            (["10", "9", "-1"], ("-1", "9", "10")),
            (["10", "9", "a"], ("10", "9", "a")),
            (["007", "7", "8"], ("007", "7", "8")),
        ],
    )
    def test_order_of_classes(self, folder: Path, labels: list[str], classes: tuple[str, ...]) -> None:
        lines = [f"cats/{row}.png,{label}" for row, label in enumerate(labels)]
        table = read_table(write_csv(folder, "path,label\n" + "\n".join(lines)))
        assert table.classes == classes
        assert [table.classes[label] for label in table.label] == labels

    def test_byte_order_mark_semicolons_and_spaces(self, folder: Path) -> None:
        file = write_csv(folder, "\ufeffpath; label\r\ncats/0.png; a\r\n\r\ndogs/0.png; b\r\n")
        assert rows(read_table(file)) == [("0.png", "a"), ("0.png", "b")]

    def test_split_query_and_gallery(self, folder: Path) -> None:
        file = write_csv(
            folder, "path,label,split\ncats/0.png,a,query\ncats/1.png,a,gallery\ndogs/0.png,b,val\n"
        )
        table = read_table(file)
        assert table.columns["split"].tolist() == ["test", "test", "validation"]
        assert table.columns["is_query"].tolist() == [True, False, False]
        assert table.columns["is_gallery"].tolist() == [False, True, False]

    @pytest.mark.parametrize("ending", ["csv", "parquet"])
    def test_round_trip(self, folder: Path, ending: str) -> None:
        table = read_table(folder)
        extra = {
            "split": np.array(["train"] * 5 + ["test"] * 4),
            "camera": np.arange(9),
            "is_query": np.arange(9) % 2 == 0,
            "box": np.array([[0.0, 1.5, 7.0, 9.0]] * 9),
        }
        table = Table(table.path, table.label, table.classes, extra, "", "t")
        file = table.to_file(folder / f"t.{ending}")
        again = read_table(file)
        assert again.path.tolist() == table.path.tolist()
        assert again.classes == table.classes
        assert again.label.tolist() == table.label.tolist()
        for name, values in extra.items():
            assert again.columns[name].tolist() == values.tolist(), name
            assert again.columns[name].dtype == values.dtype, name
        if ending == "csv":
            assert file.read_text().splitlines()[1].startswith("cats/0.png,cats,train,0,True,0.0,1.5")

    @pytest.mark.parametrize(
        ("text", "sentence"),
        [
            ("path,class\ncats/0.png,a\n", r"no column 'label'; found 'path', 'class'\."),
            ("label\na\n", "no column 'path'; found 'label'"),
            ("", "no column 'path'; found nothing"),
            ("path,label\n", "has a header but no rows"),
            ("path,label\ncats/0.png,a\ncats/9.png,b\n", r"row 3: no such file: '.*9\.png'; paths are"),
            (
                "path,label\ncats/8.png,a\ncats/9.png,b\n",
                r"row 2: no such file: .*\(2 rows name a missing file\)",
            ),
            ("path,label\ncats/0.png,a\ncats/1.png,\n", "row 3: no label"),
            ("path,label\n,a\n", "row 2: no path"),
            (
                "path,label\ncats/0.png,a\ndogs/0.png,b\ncats/../cats/0.png,b\n",
                r"row 4: '.*0\.png' is labelled 'b' here and 'a' in row 2",
            ),
            ("path,label\ncats/0.png,a,3\n", "row 2: 3 values but the header has 2 columns"),
            ("path,label,label\ncats/0.png,a,b\n", "column 'label' occurs twice"),
            ("path,label,split\ncats/0.png,a,trian\n", "row 2: split is 'trian'; expected one of train"),
            ("path,label,is_query\ncats/0.png,a,maybe\n", "row 2: is_query is 'maybe'; expected true or"),
            ("path,label,x_1,y_1,x_2,y_2\ncats/0.png,a,5,0,5,9\n", "row 2: box 5, 0, 5, 9 is empty"),
            ("path,label,x_1,y_1,x_2,y_2\ncats/0.png,a,l,0,5,9\n", "row 2: box l, 0, 5, 9 is not four"),
            ("path,label\ncats/0.png,a\ncats/1.png,a\n", r"has one class \('a'\)"),
        ],
    )
    def test_errors(self, folder: Path, text: str, sentence: str) -> None:
        with pytest.raises(DataError, match=sentence):
            read_table(write_csv(folder, text))

    def test_a_missing_table(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match=r"no such file: '.*none\.csv'"):
            read_table(tmp_path / "none.csv")

    def test_not_text_and_not_parquet(self, tmp_path: Path) -> None:
        (tmp_path / "a.csv").write_bytes(b"path,label\n\xff\xfe")
        with pytest.raises(DataError, match="not UTF-8 text"):
            read_table(tmp_path / "a.csv")
        (tmp_path / "a.parquet").write_bytes(b"path,label")
        with pytest.raises(DataError, match="cannot be read as Parquet"):
            read_table(tmp_path / "a.parquet")

    def test_a_file_listed_twice_is_logged(self, folder: Path, caplog: pytest.LogCaptureFixture) -> None:
        with caplog.at_level(logging.WARNING, "nearfar"):
            table = read_table(write_csv(folder, "path,label\ncats/0.png,a\ncats/0.png,a\ndogs/0.png,b\n"))
        assert len(table) == 3
        assert "images listed more than once: 1" in caplog.text

    def test_written_by_ending(self, folder: Path) -> None:
        with pytest.raises(DataError, match=r"ends in \.csv or \.parquet"):
            read_table(folder).to_file(folder / "t.xlsx")


class TestSelect:
    def test_mask_and_indices(self, folder: Path) -> None:
        table = read_table(folder)
        mask = table.label == 2
        assert rows(table.select(mask)) == rows(table.select(np.flatnonzero(mask)))
        chosen = table.select(mask)
        assert chosen.classes == table.classes
        assert chosen.class_count() == 1
        assert chosen.label.tolist() == [2] * 4

    def test_none(self, folder: Path) -> None:
        empty = read_table(folder).select(np.zeros(9, dtype=bool))
        assert empty.counts() == {"images": 0, "classes": 0, "per_class": (0, 0.0, 0)}

    def test_columns_go_along(self, folder: Path) -> None:
        table = read_table(folder)
        table = Table(table.path, table.label, table.classes, {"camera": np.arange(9)})
        assert table.select(np.array([4, 1])).columns["camera"].tolist() == [4, 1]

    def test_a_mask_of_another_length(self, folder: Path) -> None:
        with pytest.raises(DataError, match="mask has 3 values but the table has 9 rows"):
            read_table(folder).select(np.ones(3, dtype=bool))


@pytest.mark.parametrize(
    ("label", "columns", "sentence"),
    [
        (np.array([0]), {}, "column 'label' has 1 rows but there are 2 paths"),
        (np.array([0, 1]), {"camera": np.zeros(3)}, "column 'camera' has 3 rows"),
        (np.array([0, 2]), {}, "labels run from 0 to 2 but there are 2 classes"),
        (np.array([0, 1], dtype=np.int32), {}, "labels must be int64"),
    ],
)
def test_a_table_that_does_not_fit_itself(label: np.ndarray, columns: dict, sentence: str) -> None:
    with pytest.raises(DataError, match=sentence):
        Table(np.array(["a", "b"], dtype=object), label, ("x", "y"), columns)


def test_reading_a_table_needs_no_torch(folder: Path) -> None:
    program = (
        f"import sys; from nearfar.data import read_table; read_table({str(folder)!r});"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0

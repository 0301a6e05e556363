"""Tables as other programs write them: types, names and rows that are not what they seem."""

import io
import json
import logging
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from nearfar.data import Table, decode, read_table
from nearfar.errors import DataError


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.WARNING, "nearfar")
    return caplog


@pytest.fixture
def names(paint, tmp_path: Path) -> list[str]:
    """Six pictures beside the table."""
    for number in range(6):
        paint(f"{number}.png", colour=(40 * number, 80, 90))
    return [f"{number}.png" for number in range(6)]


def write(folder: Path, kind: str, **columns: list[Any] | pa.Array) -> Path:
    file = folder / f"t.{kind}"
    if kind == "parquet":
        pq.write_table(pa.table(columns), file)
    else:
        rows = zip(*columns.values(), strict=True)
        file.write_text("\n".join([",".join(columns), *(",".join(map(str, row)) for row in rows)]))
    return file


def labels_of(table: Table) -> list[str]:
    return [table.classes[label] for label in table.label]


@pytest.mark.parametrize(
    ("kind", "labels"),
    [
        ("parquet", [10.0, 2.0, 1.0, 10.0, 2.0, 1.0]),
        ("parquet", ["10.0", "2.0", "1.0", "10.0", "2.0", "1.0"]),
        ("parquet", pa.array([10, 2, 1, 10, 2, 1], pa.uint8())),
        ("parquet", pa.array([10.0, 2, 1, 10, 2, 1], pa.float32())),
        ("parquet", pa.array(["10", "2", "1", "10", "2", "1"]).dictionary_encode()),
        ("parquet", pa.array([b"10", b"2", b"1", b"10", b"2", b"1"])),
        ("csv", [10.0, 2.0, 1.0, 10.0, 2.0, 1.0]),
        ("csv", ["10", "2.0", "1.00", "10.0", "2", "1"]),
    ],
)
def test_whole_numbers_are_whole_numbers(names, tmp_path: Path, kind: str, labels) -> None:
    table = read_table(write(tmp_path, kind, path=names, label=labels, camera=labels))
    assert table.classes == ("1", "2", "10")
    assert labels_of(table) == ["10", "2", "1", "10", "2", "1"]
    assert table.columns["camera"].tolist() == [10, 2, 1, 10, 2, 1]
    assert table.columns["camera"].dtype == np.int64


def test_bytes_are_text(names, tmp_path: Path) -> None:
    labels = [b"cat", b"cat", b"dog", b"dog", "käfer".encode(), "käfer".encode()]
    assert read_table(write(tmp_path, "parquet", path=names, label=labels)).classes == ("cat", "dog", "käfer")
    with pytest.raises(DataError, match=r"row 3: label is bytes that are no UTF-8 text"):
        read_table(write(tmp_path, "parquet", path=names, label=[b"a", b"\xff", b"b", b"b", b"b", b"b"]))


@pytest.mark.parametrize("labels", [[1.0, float("nan"), 2.0, 2.0, None, 1.0], ["1", "", "2", "2", None, "1"]])
def test_a_missing_label_is_refused_whatever_it_is(names, tmp_path: Path, labels) -> None:
    with pytest.raises(
        DataError, match=r"row 3: no label; every row needs one \(2 rows have no label\); also row 6\."
    ):
        read_table(write(tmp_path, "parquet", path=names, label=labels))


def test_nan_among_numbers_is_missing_and_among_names_a_name(names, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="row 3: no label"):
        read_table(write(tmp_path, "csv", path=names, label=["1.0", "nan", "2.0", "2.0", "1.0", "1.0"]))
    breads = ["nan", "pita", "nan", "pita", "nan", "pita"]
    assert read_table(write(tmp_path, "csv", path=names, label=breads)).classes == ("nan", "pita")


@pytest.mark.parametrize("column", ["label", "path", "camera", "split"])
def test_a_list_where_one_value_is_expected(names, tmp_path: Path, column: str) -> None:
    columns = {"path": names, "label": list("aabbcc"), column: [[1, 2]] * 6}
    with pytest.raises(
        DataError, match=rf"the column '{column}' holds list<.*>; expected one text or one number"
    ):
        read_table(write(tmp_path, "parquet", **columns))


def test_vectors_are_not_read(names, tmp_path: Path, log) -> None:
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(np.zeros(6 * 512, np.float32)), 512)
    others = {"lists": [[1.0]] * 6, "raw": [b"\xff"] * 6, "place": [{"x": 1}] * 6}
    table = read_table(write(tmp_path, "parquet", path=names, label=list("aabbcc"), vector=vectors, **others))
    assert table.columns == {}
    assert "columns of vectors, lists or bytes are not read: 'vector', 'lists', 'raw', 'place'" in log.text


def test_many_vectors_take_no_time(names, tmp_path: Path) -> None:
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(np.zeros(5000 * 512, np.float32)), 512)
    file = write(tmp_path, "parquet", path=[names[0]] * 5000, label=["a"] * 5000, vector=vectors)
    began = time.process_time()
    with pytest.raises(DataError, match="one class"):
        read_table(file)
    assert time.process_time() - began < 1.5  # 3.9 s when they were read as text


class TestNames:
    def test_columns_that_nothing_is_known_of(self, names, tmp_path: Path, log) -> None:
        columns = {
            "path": names,
            "label": list("aabbcc"),
            "is_querry": ["true"] * 6,
            "weather": list("xxyyzz"),
        }
        table = read_table(write(tmp_path, "csv", **columns))
        assert table.columns["weather"].tolist() == list("xxyyzz")
        assert "'is_querry' Did you mean 'is_query'?, 'weather'" in log.text

    @pytest.mark.parametrize("kind", ["csv", "parquet"])
    def test_known_columns_whatever_their_case(self, names, tmp_path: Path, kind: str, log) -> None:
        columns = {"Path": names, "LABEL": list("aabbcc"), "Split": ["Train", "TEST"] * 3}
        table = read_table(write(tmp_path, kind, **columns))
        assert table.columns["split"].tolist() == ["train", "test"] * 3
        assert not log.text

    def test_the_index_of_pandas_is_nothing_to_tell(self, names, tmp_path: Path, log) -> None:
        columns = {"path": names, "label": list("aabbcc"), "__index_level_0__": list(range(6))}
        assert read_table(write(tmp_path, "parquet", **columns)).columns == {}
        assert not log.text

    def test_part_of_a_box(self, names, tmp_path: Path, log) -> None:
        read_table(write(tmp_path, "csv", path=names, label=list("aabbcc"), x_1=[0] * 6, y_1=[0] * 6))
        assert "a box needs the columns x_1, y_1, x_2, y_2; there is only x_1, y_1" in log.text


class TestSpaces:
    def test_classes_that_become_one_are_told(self, names, tmp_path: Path, log) -> None:
        table = read_table(write(tmp_path, "csv", path=names, label=["a", "a ", "b", "b", "b", "b"]))
        assert table.classes == ("a", "b")
        assert "labels that differ only in the spaces around them are one class: 'a' and 'a '" in log.text

    @pytest.mark.parametrize("pair", [("a", "a "), ("e\u0301", "\u00e9"), ("a b", "a  b")])
    def test_classes_that_stay_two_are_told(self, names, tmp_path: Path, pair: tuple[str, str], log) -> None:
        file = write(tmp_path, "parquet", path=names, label=[*pair, "b", "b", "c", "c"])
        assert set(pair) <= set(read_table(file).classes)
        assert "look alike and are two" in log.text

    def test_a_csv_that_would_lose_them_is_not_written(self, names, tmp_path: Path) -> None:
        table = read_table(write(tmp_path, "parquet", path=names, label=["a", "a ", "b", "b", "b", "b"]))
        with pytest.raises(
            DataError, match="'a ' begins or ends with a space, which a CSV file does not keep"
        ):
            table.to_file(tmp_path / "out.csv")
        assert read_table(table.to_file(tmp_path / "out.parquet")).classes == table.classes


class TestProblems:
    def test_all_are_told_at_once(self, names, tmp_path: Path) -> None:
        labels = ["a", "", "b", "", "", "b"]
        split = ["train", "trian", "test", "test", "test", "test"]
        paths = ["0.png", "1.png", "gone.png", "3.png", "4.png", "also.png"]
        with pytest.raises(DataError) as caught:
            read_table(write(tmp_path, "csv", path=paths, label=labels, split=split, is_query=["maybe"] * 6))
        sentences = str(caught.value).split("\n  ")
        assert sentences[0].startswith("t.csv, row 2: is_query is 'maybe'; expected true or false (6 rows")
        assert "row 3: no label; every row needs one (3 rows have no label); also rows 5, 6." in sentences
        assert "row 3: split is 'trian'; expected one of train" in str(caught.value)
        assert f"row 4: no such file: '{tmp_path / 'gone.png'}' (2 rows name a missing file); paths" in str(
            caught.value
        )

    def test_a_row_that_is_too_short_is_told_with_the_others(self, names, tmp_path: Path) -> None:
        (tmp_path / "t.csv").write_text("path,label\n0.png\n1.png,\n2.png,a,b\n3.png,c\n")
        with pytest.raises(DataError) as caught:
            read_table(tmp_path / "t.csv")
        assert "row 2: 1 values but the header has 2 columns (2 rows" in str(caught.value)
        assert "row 3: no label" in str(caught.value)
        assert "row 2: no label" not in str(caught.value)

    def test_missing_files_can_be_kept(self, names, tmp_path: Path) -> None:
        file = write(tmp_path, "csv", path=["0.png", "gone.png", "2.png"], label=["a", "b", "b"])
        assert len(read_table(file, missing="keep")) == 3


class TestUnlabelled:
    @pytest.mark.parametrize("kind", ["csv", "parquet"])
    @pytest.mark.parametrize("minus", [-1, -1.0, "-1"])
    def test_are_told_or_left_out(self, names, tmp_path: Path, kind: str, minus, log) -> None:
        file = write(
            tmp_path, kind, path=names, label=[minus, minus, *[type(minus)(v) for v in (3, 3, 7, 7)]]
        )
        assert read_table(file).classes == ("-1", "3", "7")
        assert "2 of 6 images have the label -1, the usual mark of no label" in log.text
        log.clear()
        table = read_table(file, unlabelled=-1)
        assert (table.classes, table.label.tolist(), len(table)) == (("3", "7"), [0, 0, 1, 1], 4)
        assert "images without a label (-1) are left out: 2 of 6" in log.text

    def test_by_a_name(self, names, tmp_path: Path) -> None:
        file = write(tmp_path, "csv", path=names, label=["a", "unknown", "b", "b", "unknown", "c"])
        table = read_table(file, unlabelled="unknown")
        assert table.classes == ("a", "b", "c")
        assert labels_of(table) == ["a", "b", "b", "c"]


class TestPicturesInside:
    @pytest.fixture
    def encoded(self, names, tmp_path: Path) -> list[bytes]:
        return [(tmp_path / name).read_bytes() for name in names]

    @pytest.mark.parametrize("shape", ["both", "bytes", "path", "raw"])
    def test_as_hugging_face_writes_them(self, names, encoded, tmp_path: Path, shape: str) -> None:
        pictures: list[Any] = [
            {"bytes": None if shape == "path" else data, "path": None if shape == "bytes" else name}
            for data, name in zip(encoded, names, strict=True)
        ]
        file = write(
            tmp_path, "parquet", image=encoded if shape == "raw" else pictures, label=[0, 0, 1, 1, 2, 2]
        )
        table = read_table(file)
        for path, data in zip(table.path, encoded, strict=True):
            expected = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
            assert np.array_equal(np.asarray(decode(path)), expected)
        assert len(set(table.path)) == 6
        if shape != "path":
            with pytest.raises(DataError, match="6 images of t lie in the file they were read from"):
                table.to_file(tmp_path / "again.csv")

    def test_names_of_the_labels(self, encoded, tmp_path: Path) -> None:
        features = {"label": {"names": ["cat", "dog"], "_type": "ClassLabel"}, "image": {"_type": "Image"}}
        pictures = [{"bytes": data, "path": "x.png"} for data in encoded]
        rows = pa.table({"image": pictures, "label": [0, 1, 0, 1, -1, -1]})
        told = {b"huggingface": json.dumps({"info": {"features": features}}).encode()}
        pq.write_table(rows.replace_schema_metadata(told), tmp_path / "t.parquet")
        table = read_table(tmp_path / "t.parquet", unlabelled=-1)
        assert (table.classes, table.label.tolist()) == (("cat", "dog"), [0, 1, 0, 1])

    def test_a_row_without_a_picture(self, encoded, tmp_path: Path) -> None:
        pictures = [{"bytes": encoded[0], "path": None}, {"bytes": None, "path": None}]
        with pytest.raises(DataError, match="row 3: no picture; image needs its bytes or its path"):
            read_table(write(tmp_path, "parquet", image=pictures, label=["a", "b"]))


class TestBoxes:
    def test_two_parts_of_one_picture_may_have_two_labels(self, paint, tmp_path: Path) -> None:
        paint("0.png", size=(40, 20))
        boxes = {"x_1": [0, 20, 0], "y_1": [0, 0, 5], "x_2": [20, 40, 20], "y_2": [20, 20, 15]}
        table = read_table(write(tmp_path, "csv", path=["0.png"] * 3, label=["a", "b", "a"], **boxes))
        assert [decode(path).size for path in table.path] == [(20, 20), (20, 20), (20, 10)]
        assert table.path[0] == str(tmp_path / "0.png")
        again = read_table(table.to_file(tmp_path / "again.parquet"))
        assert [decode(path).size for path in again.path] == [(20, 20), (20, 20), (20, 10)]

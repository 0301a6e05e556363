"""The classes of a run are parted without overlap, and the parts fit the configuration."""

from collections.abc import Callable
from pathlib import Path

import pytest

from nearfar.config import Config
from nearfar.data import Table, read_table
from nearfar.errors import DataError
from nearfar.train.setup import fingerprint, flips, tables_of


def classes(table: Table | None) -> set[str]:
    return set() if table is None else {table.classes[label] for label in table.label}


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("fraction", [0.01, 0.2, 0.5, 0.99])
def test_the_three_parts_share_no_class(pictures: Path, seed: int, fraction: float) -> None:
    settings = [f"train.seed={seed}", f"data.split_seed={seed}", f"train.validation_fraction={fraction}"]
    tables = tables_of(Config.load(str(pictures), settings))
    train, validation, test = classes(tables.train), classes(tables.validation), classes(tables.test)
    assert len(train) >= 2
    assert len(validation) >= 2
    assert not train & validation
    assert not (train | validation) & test
    assert train | validation | test == classes(read_table(pictures))


def test_validation_classes_depend_on_the_seed_and_the_test_does_not(pictures: Path) -> None:
    found = [tables_of(Config.load(str(pictures), [f"train.seed={seed}"])) for seed in range(5)]
    assert len({frozenset(classes(tables.validation)) for tables in found}) > 1
    assert len({frozenset(classes(tables.test)) for tables in found}) == 1


def test_no_validation(pictures: Path) -> None:
    tables = tables_of(Config.load(str(pictures), ["train.validate_on=none"]))
    assert tables.validation is None
    assert len(classes(tables.train)) == 6


@pytest.fixture
def split_table(pictures: Path, tmp_path: Path) -> Callable[[dict[str, int]], Path]:
    """Write a table whose first classes have the first split, and so on."""

    def write(parts: dict[str, int]) -> Path:
        names = [name for name, count in parts.items() for _ in range(count)]
        lines = ["path,label,split"]
        for label, split in enumerate(names):
            lines += [f"{pictures}/class{label:02}/{i}.png,class{label:02},{split}" for i in range(7)]
        (tmp_path / "table.csv").write_text("\n".join(lines) + "\n")
        return tmp_path / "table.csv"

    return write


def test_a_validation_split_of_ones_own_is_used(split_table: Callable[[dict[str, int]], Path]) -> None:
    tables = tables_of(Config.load(split_table({"train": 5, "validation": 3, "test": 4})))
    assert [len(classes(t)) for t in (tables.train, tables.validation, tables.test)] == [5, 3, 4]


def test_too_few_classes_to_hold_some_out(split_table: Callable[[dict[str, int]], Path]) -> None:
    config = Config.load(split_table({"train": 3, "test": 4}), ["train.validate_on=classes"])
    with pytest.raises(
        DataError, match=r"has 3 training classes, too few .* set train\.validate_on = 'none'\."
    ):
        tables_of(config)
    assert Config.load(config.data.source).train.validate_on == "none"


def test_flip_is_as_said_else_as_the_pack_says(pictures: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert flips(Config.load(str(pictures))) is True
    assert flips(Config.load("objects", ["augment.flip=false"])) is False

    class Letters:
        flip = False

    monkeypatch.setattr("nearfar.data.packs.describe", lambda name: Letters())
    assert flips(Config.load("objects")) is False
    assert flips(Config.load("objects", ["augment.flip=true"])) is True


def test_fingerprint_sees_names_and_classes(pictures: Path) -> None:
    table = read_table(pictures)
    assert fingerprint(table) == fingerprint(read_table(pictures))
    assert fingerprint(table) != fingerprint(table.select(table.label > 0))


def test_one_class_is_refused_before_a_picture_is_read(
    split_table: Callable[[dict[str, int]], Path], caplog: pytest.LogCaptureFixture
) -> None:
    table = split_table({"train": 1, "test": 3})
    with pytest.raises(DataError, match="has 1 class to learn from; training needs two or more"):
        tables_of(Config.load(str(table), ["train.validate_on=none"]))
    assert "learns from" not in caplog.text

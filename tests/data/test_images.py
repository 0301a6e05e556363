"""Images in memory and images read by processes are the same; what cannot be read is said once."""

import logging
from pathlib import Path

import numpy as np
import pytest
import torch

from nearfar.data import Images, PKSampler, Preprocess, UnreadableImage, read_table
from nearfar.errors import DataError

preprocess = Preprocess(12, 16)


def collect(images: Images, ids: list[list[int]]) -> list[tuple[torch.Tensor, ...]]:
    return list(images.batches(ids))


@pytest.mark.parametrize("workers", [0, 2])
def test_memory_and_processes_give_the_same_batches(folder: Path, workers: int) -> None:
    table = read_table(folder)
    kept = Images(table, preprocess)
    read = Images(table, preprocess, memory_limit=0, workers=workers)
    assert (kept.in_memory, read.in_memory) == (True, False)
    for ids in ([[0, 5, 8], [3], [1, 1]], [[8, 2]]):  # twice: the workers live on
        for first, second in zip(collect(kept, ids), collect(read, ids), strict=True):
            for left, right in zip(first, second, strict=True):
                assert left.dtype == right.dtype
                assert torch.equal(left, right)


def test_what_a_batch_holds(folder: Path) -> None:
    table = read_table(folder)
    images = Images(table, preprocess)
    pixels, labels, ids = next(images.batches([[8, 0]]))
    assert (pixels.dtype, pixels.shape) == (torch.uint8, (2, 3, 16, 16))
    assert labels.tolist() == [2, 0]
    assert ids.tolist() == [8, 0]
    assert torch.equal(pixels[0], preprocess.load(table.path[8]))
    assert torch.equal(images.labels, torch.from_numpy(table.label))
    assert len(images) == 9


def test_in_order(folder: Path) -> None:
    images = Images(read_table(folder), preprocess)
    ids = [batch[2].tolist() for batch in images.in_order(4)]
    assert ids == [[0, 1, 2, 3], [4, 5, 6, 7], [8]]


def test_stopping_early_does_not_spoil_the_next_epoch(folder: Path) -> None:
    images = Images(read_table(folder), preprocess, memory_limit=0, workers=1)
    ids = [[row] for row in range(9)]
    for _, _, row in images.batches(ids):
        if row.item() == 2:
            break
    assert [row.item() for _, _, row in images.batches(ids[4:])] == [4, 5, 6, 7, 8]


@pytest.mark.parametrize("limit", [2**30, 0])
def test_the_random_state_is_left_alone(folder: Path, limit: int) -> None:
    torch.manual_seed(0)
    state = torch.get_rng_state()
    images = Images(read_table(folder), preprocess, memory_limit=limit, workers=1)
    collect(images, [[0], [1]])
    collect(images, [[2]])
    assert torch.equal(state, torch.get_rng_state())


def test_a_sampler_feeds_it(folder: Path) -> None:
    images = Images(read_table(folder), preprocess)
    for _, labels, _ in images.batches(PKSampler(images.labels, 2, 2)):
        assert labels.unique(return_counts=True)[1].tolist() == [2, 2]


def test_progress(folder: Path) -> None:
    seen: list[tuple[int, int]] = []
    Images(read_table(folder), preprocess, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(done, 9) for done in range(1, 10)]


@pytest.mark.parametrize("limit", [2**30, 0])
class TestUnreadable:
    def broken(self, folder: Path) -> None:
        for number in range(7):
            (folder / "owls" / f"broken{number}.jpg").write_text("no image")

    def test_one_error_names_five_and_the_way_on(self, folder: Path, limit: int) -> None:
        self.broken(folder)
        with pytest.raises(DataError) as caught:
            Images(read_table(folder), preprocess, memory_limit=limit)
        text = str(caught.value)
        assert text.startswith("7 of 16 images cannot be read")
        assert "data.skip_unreadable = true" in text
        assert text.count("broken") == 5
        assert "and 2 more" in text

    def test_skipped_when_asked_and_logged(
        self, folder: Path, limit: int, caplog: pytest.LogCaptureFixture
    ) -> None:
        whole = Images(read_table(folder), preprocess)
        self.broken(folder)
        with caplog.at_level(logging.WARNING, "nearfar"):
            images = Images(
                read_table(folder), preprocess, memory_limit=limit, workers=0, skip_unreadable=True
            )
        assert len(images) == len(images.labels) == len(images.table) == 9
        assert [Path(problem.path).name for problem in images.unreadable] == [
            f"broken{number}.jpg" for number in range(7)
        ]
        assert "left out 7 of 16 images" in caplog.text
        for left, right in zip(images.in_order(4), whole.in_order(4), strict=True):
            assert torch.equal(left[0], right[0])

    def test_none_left(self, folder: Path, limit: int) -> None:
        table = read_table(folder)
        for path in table.path:
            Path(path).write_text("no image")
        with pytest.raises(DataError, match="none of its 9 images can be read"):
            Images(table, preprocess, memory_limit=limit, skip_unreadable=True)


def test_a_worker_fails_loudly_with_the_path(folder: Path) -> None:
    images = Images(read_table(folder), preprocess, memory_limit=0, workers=2, check=False)
    (folder / "dogs" / "1.png").write_text("no image")
    with pytest.raises(UnreadableImage, match=r"dogs/1\.png': it is not an image") as caught:
        collect(images, [[row] for row in range(9)])
    assert caught.value.path == str(folder / "dogs" / "1.png")


def test_an_empty_table(folder: Path) -> None:
    images = Images(read_table(folder).select(np.zeros(9, dtype=bool)), preprocess)
    assert len(images) == 0
    assert list(images.in_order(4)) == []

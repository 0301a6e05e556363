"""The decoded images of a table, in memory or read by worker processes."""

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal, cast

import numpy as np
import torch
from jaxtyping import Bool, Int64, UInt8
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from nearfar.data.decode import Unreadable, UnreadableImage, find_unreadable, processors, shallow_grey
from nearfar.data.preprocess import Preprocess
from nearfar.data.table import Table
from nearfar.data.workers import loss_in_one_sentence, signals_wait, stand_apart
from nearfar.errors import DataError
from nearfar.printable import printable

log = logging.getLogger("nearfar")

Batch = tuple[Tensor, Tensor, Tensor]
SET = "set data.skip_unreadable = true"
Progress = Callable[[int, int], None]


class Images:
    """The images of a table as uint8 tensors ``[3, resize, resize]``, before any augmentation.

    A set that fits ``memory_limit`` is decoded once, by threads, and kept. A larger one is read for each
    batch by worker processes. Both give the same batches.

    Args:
        table: which images.
        preprocess: how they are resized.
        memory_limit: bytes that the decoded set may take.
        workers: threads that fill the memory, or processes that read a larger set; "auto" is one for each
            processor, at most 16. With 0 a larger set is read in this process.
        skip_unreadable: go on without files that cannot be decoded; they are logged and listed in
            ``unreadable``.
        check: decode a larger set once before the first batch, to find unreadable files now and not in hours.
            Without it such a file stops the batch that holds it.
        progress: called with the number of images done and of all.

    Attributes:
        table: the rows that are left; ids are its indices.
        labels: their labels.
        in_memory: whether the set is kept decoded.
        unreadable: the files that were skipped.

    Raises:
        DataError: if files cannot be decoded and ``skip_unreadable`` is off, or none is left.
    """

    def __init__(
        self,
        table: Table,
        preprocess: Preprocess,
        *,
        memory_limit: int = 2**30,
        workers: int | Literal["auto"] = "auto",
        skip_unreadable: bool = False,
        check: bool = True,
        progress: Progress | None = None,
    ) -> None:
        self.preprocess = preprocess
        self.workers = min(processors(), 16) if workers == "auto" else workers
        bytes_needed = len(table) * 3 * preprocess.resize**2
        self.in_memory = bytes_needed <= memory_limit
        self.pixels: UInt8[Tensor, "image 3 r r"] | None = None
        self.feed = Feed()
        self.loader: DataLoader[Any] | None = None
        if self.in_memory:
            self.pixels, self.unreadable = decode_all(table, preprocess, self.workers, progress)
        else:
            log.info(
                "images: read by %d processes, batch by batch: %.1f GB decoded is over the limit of %.1f GB.",
                self.workers,
                bytes_needed / 2**30,
                memory_limit / 2**30,
            )
            self.unreadable = (
                find_unreadable(table, self.workers or 1, progress, at_least=2 * preprocess.resize)
                if check
                else []
            )
        self.table = table
        if (sentence := shallow_grey(table)) is not None:
            log.warning("%s", sentence)
        if self.unreadable:
            self.leave_out_unreadable(skip_unreadable)
        self.labels: Int64[Tensor, " image"] = torch.from_numpy(self.table.label.copy())

    def __len__(self) -> int:
        return len(self.table)

    def leave_out_unreadable(self, allowed: bool) -> None:
        """Keep the readable rows only, or raise one error for all files."""
        if not allowed:
            raise UnreadableImages(self.unreadable, len(self.table))
        kept = kept_rows(self.table, self.unreadable)
        self.table = self.table.select(kept)
        if self.pixels is not None:
            self.pixels = self.pixels[torch.from_numpy(kept)]

    def batches(self, batch_sampler: Iterable[Sequence[int]]) -> Iterator[Batch]:
        """Yield ``(images uint8 [b, 3, r, r], labels int64 [b], ids int64 [b])`` for each list of ids.

        The random state of this process is left alone, so a resumed run draws what the first would have.

        Raises:
            UnreadableImage: if a file cannot be decoded any more.
        WorkerLost: if a process that reads them was killed.
        """
        if self.pixels is not None:
            for chosen in batch_sampler:
                ids = torch.as_tensor(chosen, dtype=torch.int64)
                yield self.pixels[ids], self.labels[ids], ids
            return
        loader = self.start_workers()
        self.feed.source = batch_sampler
        with loss_in_one_sentence():
            with signals_wait():
                batches = iter(loader)
            for batch in batches:
                if isinstance(batch, Unreadable):
                    raise UnreadableImage(batch.path, batch.reason)
                yield batch

    def start_workers(self) -> DataLoader[Any]:
        """Return the loader, whose workers live as long as this object."""
        if self.loader is None:
            self.loader = DataLoader(
                Files(self.table, self.preprocess),
                batch_sampler=cast(Any, self.feed),
                num_workers=self.workers,
                collate_fn=collate,
                persistent_workers=self.workers > 0,
                worker_init_fn=stand_apart,
                generator=torch.Generator().manual_seed(0),
            )
        return self.loader

    def in_order(self, batch_size: int) -> Iterator[Batch]:
        """Yield all images in the order of the table."""
        ids = range(len(self))
        return self.batches([ids[start : start + batch_size] for start in range(0, len(self), batch_size)])


class UnreadableImages(DataError):
    """Files of a table that cannot be decoded; ``unreadable`` lists them, of ``total`` images."""

    def __init__(self, unreadable: Sequence[Unreadable], total: int, advice: str = SET) -> None:
        self.unreadable, self.total = list(unreadable), total
        super().__init__(describe_unreadable(unreadable, total, advice))


def without_unreadable(table: Table, *, skip: bool, advice: str = SET, at_least: int = 0) -> Table:
    """Decode every image and leave out those that cannot be, or refuse them.

    Args:
        table: the images.
        skip: leave them out, with a notice that counts them.
        advice: what the error says to do.
        at_least: pixels of the shorter side that are enough; see ``decode``.

    Raises:
        DataError: if files cannot be decoded and ``skip`` is off, or none is left.
    """
    unreadable = find_unreadable(table, at_least=at_least)
    if not unreadable:
        return table
    if not skip:
        raise UnreadableImages(unreadable, len(table), advice)
    return table.select(kept_rows(table, unreadable))


def kept_rows(table: Table, unreadable: Sequence[Unreadable]) -> Bool[np.ndarray, " image"]:
    """Return which rows can be read, and tell how many cannot.

    Raises:
        DataError: if none is left.
    """
    paths = {problem.path for problem in unreadable}
    kept = np.array([path not in paths for path in table.path], dtype=bool)
    if not kept.any():
        raise DataError(f"{table.source or 'the list'}: none of its {len(kept)} images can be read.")
    left_out = table.path[~kept].tolist()  # as they lie there, so that who comes later tells the same
    names = ", ".join(map(printable, left_out[:5]))
    more = ", …" if len(left_out) > 5 else ""
    log.warning("left out %d of %d images that cannot be read: %s%s", len(left_out), len(kept), names, more)
    return kept


class Feed:
    """A batch sampler whose source changes from epoch to epoch while the workers live on."""

    source: Iterable[Sequence[int]] = ()

    def __iter__(self) -> Iterator[Sequence[int]]:
        return iter(self.source)


class Files(Dataset[tuple[Tensor, int, int] | Unreadable]):
    """Decodes one row at a time; a failure is returned and not raised, so that it keeps its path."""

    def __init__(self, table: Table, preprocess: Preprocess) -> None:
        self.table, self.preprocess = table, preprocess

    def __len__(self) -> int:
        return len(self.table)

    def __getitem__(self, index: int) -> tuple[Tensor, int, int] | Unreadable:
        try:
            image = self.preprocess.load(self.table.path[index])
        except UnreadableImage as error:
            return Unreadable(error.path, error.reason)
        return image, int(self.table.label[index]), index


def collate(rows: list[tuple[Tensor, int, int] | Unreadable]) -> Batch | Unreadable:
    """Return the rows as one batch, or the first that is unreadable."""
    images, labels, ids = [], [], []
    for row in rows:
        if isinstance(row, Unreadable):
            return row
        images.append(row[0])
        labels.append(row[1])
        ids.append(row[2])
    return torch.stack(images), torch.tensor(labels), torch.tensor(ids)


def decode_all(
    table: Table, preprocess: Preprocess, workers: int, progress: Progress | None
) -> tuple[UInt8[Tensor, "image 3 r r"], list[Unreadable]]:
    """Return all images decoded, and the files that could not be (their pixels are left as they fell)."""
    pixels = torch.empty(len(table), 3, preprocess.resize, preprocess.resize, dtype=torch.uint8)
    unreadable = []

    def fill(row: int) -> Unreadable | None:
        try:
            pixels[row] = preprocess.load(table.path[row])
        except UnreadableImage as error:
            return Unreadable(error.path, error.reason)
        return None

    # PIL lets go of the interpreter while it decodes and resizes, so threads share the work.
    with ThreadPoolExecutor(max(workers, 1)) as pool:
        for done, problem in enumerate(pool.map(fill, range(len(table))), start=1):
            if problem is not None:
                unreadable.append(problem)
            if progress is not None:
                progress(done, len(table))
    return pixels, unreadable


def describe_unreadable(unreadable: Sequence[Unreadable], total: int, advice: str = SET) -> str:
    """Return one message that names up to five files and says how to go on."""
    lines = [f"\n  {printable(problem.path)}: {printable(problem.reason)}" for problem in unreadable[:5]]
    if len(unreadable) > 5:
        lines.append(f"\n  and {len(unreadable) - 5} more")
    return (
        f"{len(unreadable)} of {total} images cannot be read; repair or remove them, or {advice} to go on "
        f"without them:{''.join(lines)}"
    )

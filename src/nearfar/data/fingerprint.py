"""Which pictures a table holds: their names, and what is in the files."""

import hashlib
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from jaxtyping import Int64

from nearfar.data.decode import processors
from nearfar.data.listing import first_of
from nearfar.data.picture import box_of, data_of
from nearfar.data.table import Table

# Of a file larger than all of these together, so many pieces of this size are looked at, first and last too.
PIECES, PIECE = 16, 2**16


def fingerprint(table: Table) -> str:
    """Return a hash of file names and classes, the same wherever the files lie."""
    digest = hashlib.sha256()
    for path, label in zip(table.path, table.label, strict=True):
        line = f"{Path(path).name}\0{table.classes[label]}\n"
        digest.update(line.encode(errors="surrogatepass"))
    return digest.hexdigest()[:16]


def content_digests(table: Table) -> Int64[np.ndarray, " image"]:
    """Return 64 bits for what is in the file of each image, the same wherever and whenever it was written.

    A file of up to a MiB is read whole; of a larger one its size and a MiB from all over it.
    """
    with ThreadPoolExecutor(processors()) as pool:
        return np.fromiter(pool.map(_digest, table.path), np.int64, len(table))


def changed_pictures(
    table: Table, before: Sequence[int] | np.ndarray, now: Int64[np.ndarray, " image"]
) -> str | None:
    """Return which pictures of ``table`` are not what they were, in words, or None."""
    rows = np.flatnonzero(np.asarray(before) != now)
    if not len(rows):
        return None
    names = first_of(os.path.join(*Path(table.path[row]).parts[-2:]) for row in rows)
    return f"{names} of {len(table):,}"


def _digest(path: str) -> int:
    data = data_of(path)
    digest = hashlib.blake2b(repr(box_of(path)).encode(), digest_size=8)
    if data is not None:
        digest.update(data)
    else:
        try:
            with open(path, "rb") as file:
                size = os.fstat(file.fileno()).st_size
                digest.update(str(size).encode())
                if size <= PIECES * PIECE:
                    digest.update(file.read())
                else:
                    for place in range(PIECES):
                        file.seek((size - PIECE) * place // (PIECES - 1))
                        digest.update(file.read(PIECE))
        except OSError:  # an image that is gone is told by whoever needs it
            return 0
    return int.from_bytes(digest.digest(), "little", signed=True)

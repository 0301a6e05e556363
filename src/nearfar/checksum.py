"""Checksums: whether what is read is what was written.

CRC-32 notices every change of up to 32 bits in a row and misses others once in four thousand million times;
it is several times faster than a cryptographic hash, and no defence against somebody who wants to deceive.
"""

import zlib
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

PLAIN = "values that are no tensors"
"""The name under which `checksums` keeps everything that is no tensor."""


def checksum(tensor: Tensor) -> str:
    """Return 8 hexadecimal digits of a tensor's bytes, dtype and shape, wherever it lies in memory."""
    kind = f"{tensor.dtype} {list(tensor.shape)}".encode()
    whole = tensor.detach().resolve_conj().resolve_neg().cpu().contiguous()
    content = whole.reshape(-1).view(torch.uint8).numpy()
    return f"{zlib.crc32(content.data, zlib.crc32(kind)):08x}"


def checksums(state: Any) -> dict[str, str]:
    """Return the checksum of every tensor among nested mappings and sequences, by its path, as in "a.0.b".

    All other values have one together, under ``PLAIN``: numbers count with every digit and with their type.
    """
    found, plain = {}, 0
    for path, value in leaves(state):
        if isinstance(value, Tensor):
            found[path] = checksum(value)
        else:
            plain = zlib.crc32(f"{path} {type(value).__name__} {value!r}\n".encode(), plain)
    return {**found, PLAIN: f"{plain:08x}"}


def damaged(state: Any, written: Mapping[str, str]) -> list[str]:
    """Return the paths in ``state`` that have another checksum than when ``written`` was made, or none."""
    now = checksums(state)
    return [
        path
        for path in [*written, *(new for new in now if new not in written)]
        if now.get(path) != written.get(path)
    ]


def leaves(state: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Yield what mappings, lists and tuples hold, with the path to it; an empty one is a leaf itself."""
    if isinstance(state, Mapping) and state:
        for key, value in state.items():
            yield from leaves(value, f"{path}.{key}" if path else str(key))
    elif isinstance(state, (list, tuple)) and state:
        for place, value in enumerate(state):
            yield from leaves(value, f"{path}.{place}" if path else str(place))
    else:
        yield path, state

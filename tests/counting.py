"""Counts operations, and those that a host waits for: what it must know of a result before it goes on."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

WAITING = {
    "_local_scalar_dense",
    "_unique2",
    "bincount",
    "equal",
    "is_nonzero",
    "masked_select",
    "nonzero",
    "repeat_interleave",
    "unique_consecutive",
    "unique_dim",
}
"""Operations whose numbers, or whose shapes, are data."""
BRINGING = {"cpu", "tolist"}
"""Methods that bring numbers from a device."""


class Counted(TorchDispatchMode):
    """Counts operations.

    Attributes:
        operations: how many there were.
        waits: the names of those that the host has waited for.
    """

    def __init__(self) -> None:
        super().__init__()
        self.operations = 0
        self.waits: list[str] = []

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.operations += 1
        name = function.overloadpacket.__name__
        if name in WAITING or (name in ("index", "index_put", "index_put_") and _by_mask(args[1])):
            self.waits.append(name)
        return function(*args, **(kwargs or {}))


def _by_mask(indices: Any) -> bool:
    return any(isinstance(x, Tensor) and x.dtype == torch.bool for x in indices)


class _Brought(TorchFunctionMode):
    def __init__(self, counted: Counted) -> None:
        super().__init__()
        self.counted = counted

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(function, "__name__", "")
        if name in BRINGING:
            self.counted.waits.append(name)
        return function(*args, **(kwargs or {}))


@contextmanager
def counted(*, on_a_device: bool = False) -> Iterator[Counted]:
    """Count; ``on_a_device`` also what brings numbers from there, which on the CPU are where they are."""
    found = Counted()
    with found:
        if not on_a_device:
            yield found
            return
        with _Brought(found):
            yield found

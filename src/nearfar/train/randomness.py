"""Random numbers that depend on (seed, epoch, step) alone, so that no generator's state has to be kept.

Every step begins by seeding torch, numpy and python from its own place in the run: dropout, mining and
anything else that draws gets the same numbers in a resumed run as in one that was never stopped.
"""

import hashlib
import random
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor


def derive_seed(*numbers: int) -> int:
    """Return 63 well-mixed bits that depend on all the numbers and their order."""
    digest = hashlib.blake2b(" ".join(map(str, numbers)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def seed_everything(*numbers: int) -> None:
    """Seed the global generators of torch (all devices), numpy and python."""
    seed = derive_seed(*numbers)
    torch.manual_seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002 (third-party code may draw from it)
    random.seed(seed)


@contextmanager
def own_randomness() -> Iterator[None]:
    """Give the caller's generators back as they were."""
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002
    try:
        with torch.random.fork_rng():
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)  # noqa: NPY002


@dataclass(frozen=True)
class RandomState:
    """Where the global generators of torch, numpy and python stand; `restore` makes them draw the same again.

    Attributes:
        devices: state of the generator of each device that is not the CPU.
    """

    python: Any
    numpy: Any
    torch: Tensor
    devices: dict[torch.device, Tensor]

    @classmethod
    def now(cls, devices: Iterable[torch.device] = ()) -> "RandomState":
        """Return where they stand, those of ``devices`` included."""
        return cls(
            random.getstate(),
            np.random.get_state(),  # noqa: NPY002
            torch.get_rng_state(),
            {device: _of_device(device) for device in devices},
        )

    def restore(self) -> None:
        """Put them back."""
        random.setstate(self.python)
        np.random.set_state(self.numpy)  # noqa: NPY002
        torch.set_rng_state(self.torch)
        for device, state in self.devices.items():
            if device.type == "mps":  # it knows one generator, and no argument
                torch.mps.set_rng_state(state)
            else:
                torch.get_device_module(device).set_rng_state(state, device)


def _of_device(device: torch.device) -> Tensor:
    return (
        torch.mps.get_rng_state()
        if device.type == "mps"
        else torch.get_device_module(device).get_rng_state(device)
    )

"""Random numbers that depend on (seed, epoch, step) alone, so that no generator's state has to be kept.

Every step begins by seeding torch, numpy and python from its own place in the run: dropout, mining and
anything else that draws gets the same numbers in a resumed run as in one that was never stopped.
"""

import hashlib
import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


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

"""Classes shared out over ranks: which of them a rank has, how their vectors are drawn and put together."""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor

from nearfar.criterion.classes import Met
from nearfar.distributed import rank, world_size
from nearfar.distributed.exchange import of_first, rows_of_all
from nearfar.distributed.world import device_of
from nearfar.errors import NearfarError


@dataclass(frozen=True)
class Shard:
    """A run of the classes.

    Attributes:
        classes: how many there are on all ranks.
        centres: how many vectors each has.
        rank: whose run it is.
        size: how many ranks have one; some may be longer by a class than others, or empty.
    """

    classes: int
    centres: int
    rank: int
    size: int

    @classmethod
    def of(cls, classes: int, centres: int) -> "Shard":
        """Return this rank's part of so many classes."""
        return cls(classes, centres, rank(), world_size())

    @property
    def counts(self) -> list[int]:
        """How many vectors each rank has."""
        edges = [self.classes * k // self.size for k in range(self.size + 1)]
        return [self.centres * (end - start) for start, end in pairwise(edges)]

    @property
    def start(self) -> int:
        """The first of this rank's classes."""
        return self.classes * self.rank // self.size

    @property
    def stop(self) -> int:
        """The class after the last of them."""
        return self.classes * (self.rank + 1) // self.size

    @property
    def rows(self) -> slice:
        """Where this rank's vectors are among those of all classes."""
        return slice(self.start * self.centres, self.stop * self.centres)

    def here(self, met: Met) -> Met:
        """Return what this rank has of the classes that a batch meets; a class elsewhere has place -1."""
        first, last = self.start, self.stop
        if met.chosen is not None:
            edges = torch.tensor([first, last], device=met.chosen.device)
            first, last = torch.searchsorted(met.chosen, edges).tolist()
        place = torch.where((met.place >= first) & (met.place < last), met.place - first, -1)
        chosen = None if met.chosen is None else met.chosen[first:last] - self.start
        return Met(place, met.labels[first:last], chosen)

    def drawn(self, start: Callable[[], Float[Tensor, "row dim"]]) -> Float[Tensor, "few dim"]:
        """Return this rank's of the vectors that training starts from: those of rank 0's generator."""
        if self.size == 1:
            return start()
        own = torch.get_rng_state()
        first = of_first(own.to(device_of(None))).cpu()
        torch.set_rng_state(first)
        mine = start()[self.rows].clone()
        if not torch.equal(first, own):  # ranks that draw alike go on alike, the others as they were
            torch.set_rng_state(own)
        return mine

    def check(self, name: str) -> None:
        """Refuse to work on another number of ranks than the vectors were shared out to.

        Raises:
            NearfarError: if it is another.
        """
        if world_size() != self.size:
            raise NearfarError(
                f"{name} was created with sharded=True on {self.size} ranks and is used on {world_size()}; "
                "create it after torch.distributed is initialised, and load its checkpoint there."
            )

    def whole(self, vectors: Float[Tensor, "few dim"]) -> Float[Tensor, "row dim"]:
        """Return the vectors of all ranks in the order of the classes; every rank must call this."""
        if self.size == 1:
            return vectors.detach()
        return rows_of_all(vectors, self.counts)

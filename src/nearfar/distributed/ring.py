"""Rows of all ranks that go round: each rank holds those of one other rank at a time.

A turn of the ring brings the rows of every rank to every rank, and their gradient along where it is wanted.
Ranks ask for turns as they need them, one perhaps more often than another: before each turn they vote, and a
rank that has no use for it passes the rows on. So no rank waits for one that is done.
"""

from collections.abc import Callable, Sequence
from typing import Literal

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor

from nearfar.distributed.rows import highest
from nearfar.distributed.world import rank, world_size

Wish = Literal["done", "look", "learn", "leave"]
WISHES: tuple[Wish, ...] = ("done", "look", "learn", "leave")
Visit = Callable[[int, Tensor, Tensor | None], None]
"""(rank, its rows, the gradient that they carry, to be added to; None where they carry none)"""


class LeaveRing(Exception):
    """A rank cannot do its work with the rows of one rank at a time; raised on all ranks."""


class Ring:
    """The rows of all ranks, in turn.

    Attributes:
        rows: this rank's, without gradient.
        counts: rows of each rank.
        gradient: what this rank's rows have brought home so far, in the precision that is computed in.
        turns: how often rows have gone round, and how often with a gradient.
    """

    def __init__(self, rows: Float[Tensor, "row dim"], counts: Sequence[int], like: torch.dtype) -> None:
        self.rows, self.counts = rows.detach().contiguous(), list(counts)
        self.gradient = torch.zeros_like(self.rows, dtype=like)
        self.turns = [0, 0]

    def look(self, visit: Visit) -> None:
        """See the rows of each rank once.

        Raises:
            LeaveRing: if a rank wants to do without the ring.
        """
        self._turn("look", visit)

    def learn(self, visit: Visit) -> None:
        """The same, with the gradient that each rank's rows take home.

        Raises:
            LeaveRing: if a rank wants to do without the ring.
        """
        self._turn("learn", visit)

    def finish(self) -> None:
        """Pass rows on until all ranks are done.

        Raises:
            LeaveRing: if a rank wants to do without the ring.
        """
        while self._turn("done", None) != "done":
            pass

    def leave(self) -> None:
        """Tell all ranks to do without the ring.

        Raises:
            LeaveRing: always, here and on all ranks.
        """
        self._turn("leave", None)

    def _turn(self, wish: Wish, visit: Visit | None) -> Wish:
        own = torch.tensor([WISHES.index(wish)], device=self.rows.device)
        agreed = WISHES[int(highest(own))]
        if agreed == "leave":
            raise LeaveRing
        if agreed != "done":
            self._go_round(wish, visit, carry=agreed == "learn")
        return agreed

    def _go_round(self, wish: Wish, visit: Visit | None, carry: bool) -> None:
        size, own = world_size(), rank()
        self.turns[carry] += 1
        rows = self.rows
        gradient = torch.zeros_like(self.gradient) if carry else None
        for step in range(size):
            owner = (own - step) % size
            following = (owner - 1) % size
            coming = rows.new_empty(self.counts[following], rows.shape[1])
            under_way = self._pass_on(rows, coming) if step + 1 < size else []
            if visit is not None:
                visit(owner, rows, gradient if wish == "learn" else None)
            for job in under_way:
                job.wait()
            if gradient is not None:  # after the visit, and once more than the rows: it ends at home
                arriving = gradient.new_empty(self.counts[following], gradient.shape[1])
                for job in self._pass_on(gradient, arriving):
                    job.wait()
                gradient = arriving
            rows = coming
        if gradient is not None:
            self.gradient += gradient

    @staticmethod
    def _pass_on(sent: Tensor, coming: Tensor) -> list[dist.Work]:
        """Begin to send to the next rank, and to receive from the one before, where there are rows."""
        after, before = (rank() + 1) % world_size(), (rank() - 1) % world_size()
        jobs = []
        if len(sent):
            jobs.append(dist.P2POp(dist.isend, sent, after))
        if len(coming):
            jobs.append(dist.P2POp(dist.irecv, coming, before))
        return dist.batch_isend_irecv(jobs) if jobs else []

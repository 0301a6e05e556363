"""Rows of all ranks that go round: each rank holds those of one other rank at a time.

A turn of the ring brings the rows of every rank to every rank, and their gradient along where it is wanted.
What ranks keep of past steps goes round by itself: it takes no gradient home.
Ranks ask for turns as they need them, one perhaps more often than another: before each turn they vote, and a
rank that has no use for it passes the rows on. So no rank waits for one that is done.
"""

from collections.abc import Callable, Sequence
from typing import Literal

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor

from nearfar.distributed.rows import around_the_ring, highest
from nearfar.distributed.world import group, in_all, rank, world_size

Wish = Literal["look", "learn", "recall", "leave"]
WISHES: tuple[Wish, ...] = ("look", "learn", "recall", "leave")
Visit = Callable[[int, Tensor, Tensor | None], None]
"""(rank, its rows, the gradient that they carry, to be added to; None where they carry none)"""
VisitStored = Callable[[int, tuple[Tensor, ...]], None]
"""(rank, what it has stored)"""


class LeaveRing(Exception):
    """A rank cannot do its work with the rows of one rank at a time; raised on all ranks."""


class Ring:
    """The rows of all ranks, in turn.

    Attributes:
        rows: this rank's, without gradient.
        counts: rows of each rank.
        gradient: what this rank's rows have brought home so far, in the precision that is computed in.
        stored, stored_counts: what this rank keeps of past steps, and how many rows each rank keeps.
        turns: how often rows have gone round, and how often with a gradient.
    """

    def __init__(self, rows: Float[Tensor, "row dim"], counts: Sequence[int], like: torch.dtype) -> None:
        self.rows, self.counts = rows.detach().contiguous(), list(counts)
        self.gradient = torch.zeros_like(self.rows, dtype=like)
        self.stored: tuple[Tensor, ...] = ()
        self.stored_counts: list[int] = []
        self.turns = [0, 0]

    def carry(self, stored: Sequence[Tensor], counts: Sequence[int]) -> None:
        """Let ``recall`` bring what every rank keeps of past steps; all ranks must call this."""
        self.stored, self.stored_counts = tuple(stored), list(counts)

    def look(self, visit: Visit) -> None:
        """See the rows of each rank once.

        Raises:
            LeaveRing: if a rank wants to do without the ring.
        """
        self._turn("look", visit=visit)

    def learn(self, visit: Visit) -> None:
        """The same, with the gradient that each rank's rows take home.

        Raises:
            LeaveRing: if a rank wants to do without the ring.
        """
        self._turn("learn", visit=visit)

    def recall(self, visit: VisitStored) -> None:
        """See what each rank keeps of past steps once.

        Raises:
            LeaveRing: if a rank wants to do without the ring.
        """
        self._turn("recall", visit_stored=visit)

    def finish(self) -> None:
        """Pass rows on until all ranks are done.

        Raises:
            LeaveRing: if a rank wants to do without the ring.
        """
        while self._turn(None):
            pass

    def leave(self) -> None:
        """Tell all ranks to do without the ring.

        Raises:
            LeaveRing: always, here and on all ranks.
        """
        self._turn("leave")

    def _turn(
        self, wish: Wish | None, visit: Visit | None = None, visit_stored: VisitStored | None = None
    ) -> bool:
        """Do what any rank wishes; return whether there was a wish."""
        own = torch.tensor([wish == one for one in WISHES], dtype=torch.int32, device=self.rows.device)
        look, learn, recall, leave = map(bool, highest(own).tolist())
        if leave:
            raise LeaveRing
        if look or learn:
            self._go_round(wish, visit, carry=learn)
        if recall:
            for owner, stored in around_the_ring(*self.stored, counts=self.stored_counts):
                if visit_stored is not None:
                    visit_stored(owner, stored)
        return look or learn or recall

    def _go_round(self, wish: Wish | None, visit: Visit | None, carry: bool) -> None:
        size, own = world_size(), rank()
        self.turns[carry] += 1
        rows = self.rows
        gradient = self.gradient if carry else None  # what the own rows teach is at home already
        for step in range(size):
            owner = (own - step) % size
            following = (owner - 1) % size
            coming = rows.new_empty(self.counts[following], rows.shape[1])
            under_way = self._pass_on(rows, coming) if step + 1 < size else []
            if visit is not None:
                visit(owner, rows, gradient if wish == "learn" else None)
            for job in under_way:
                job.wait()
            if gradient is not None:
                # After the visit: it sets out one step later than the rows, and ends at home.
                arriving = gradient.new_zeros(self.counts[following], gradient.shape[1])
                if step:
                    for job in self._pass_on(gradient, arriving):
                        job.wait()
                gradient = arriving
            rows = coming
        if gradient is not None and size > 1:
            self.gradient += gradient

    @staticmethod
    def _pass_on(sent: Tensor, coming: Tensor) -> list[dist.Work]:
        """Begin to send to the next rank, and to receive from the one before, where there are rows."""
        after, before = (in_all((rank() + step) % world_size()) for step in (1, -1))
        jobs = []
        if len(sent):
            jobs.append(dist.P2POp(dist.isend, sent, after, group()))
        if len(coming):
            jobs.append(dist.P2POp(dist.irecv, coming, before, group()))
        return dist.batch_isend_irecv(jobs) if jobs else []

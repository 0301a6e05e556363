"""This rank's rows of batches that all ranks draw alike."""

from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any

from nearfar.data.samplers.protocol import BatchSampler
from nearfar.errors import NearfarError


def own_part(n: int) -> slice:
    """Return which of ``n`` rows are this rank's: a run of them, so that rank after rank has them in order.

    A loss across ranks then sees the rows in the order of one process, and what hangs on it is the same: the
    places in a memory, and what is drawn at random.
    """
    from nearfar.distributed import rank, world_size

    return slice(n * rank() // world_size(), n * (rank() + 1) // world_size())


class Share:
    """A batch sampler for one of several ranks: its part of each batch, no row twice.

    All ranks draw the same batches from the same seed, so the batch is that of one process, whatever the
    number of ranks, and its size need not be a multiple of it. In one process it gives the batches as they
    are. Rows of a class lie together in a batch and mostly come to one rank, so batch norm must be frozen or
    synchronised.

        share = Share(sampler)
        loader = DataLoader(data, batch_sampler=share)

    Leave the loader to no engine that shares it out once more; ``check`` finds out whether one did.

    Args:
        sampler: of whole batches, the same on every rank.

    Attributes:
        sampler: as given.
        given: the whole batches that were handed out and not taken yet, by ``take`` or ``check``.
    """

    def __init__(self, sampler: BatchSampler) -> None:
        self.sampler = sampler
        self.given: deque[Sequence[int]] = deque()

    def __len__(self) -> int:
        return len(self.sampler)

    def set_epoch(self, epoch: int) -> None:
        """Let the sampler go to the beginning of ``epoch``; without it an iteration is the next epoch."""
        self.sampler.set_epoch(epoch)

    def __iter__(self) -> Iterator[Sequence[int]]:
        self.given.clear()
        for batch in self.sampler:
            self.given.append(batch)
            yield batch[own_part(len(batch))]

    def take(self) -> Sequence[int]:
        """Return the whole batch of which this rank trains on its share now."""
        return self.given.popleft()

    def check(self, ids: Any) -> None:
        """Look whether the rows that the ranks train on now are a batch; every rank must call this.

        Args:
            ids: of this rank's rows, as the sampler numbers them.

        Raises:
            NearfarError: if they are not; on every rank.
        """
        import torch

        from nearfar.distributed import gather_rows, world_size

        own = torch.as_tensor(ids, dtype=torch.int64)
        batch = sorted(self.take()) if self.given else []
        if sorted(gather_rows(own).tolist()) != batch:
            raise NearfarError(
                f"the rows that {world_size()} ranks train on are not those of the batch that was drawn: the "
                "loader was shared out twice. With Accelerate, prepare the model and the optimizer but not "
                "the loader; with Lightning, set Trainer(use_distributed_sampler=False)."
            )

"""What ranks tell each other of weights and rows, in a few numbers: what should be alike, and what not."""

import warnings
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from nearfar.criterion.batch import Batch

FIRST, EVERY = 8, 256
"""Of the calls of a loss those that are looked at: the first, and every so many after them."""
DIGESTS = ("weights_digest", "rows_digest", "ids_digest")
_BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def looked_at(call: int) -> bool:
    """Whether a call is one of those, counted from 0: it makes the device wait."""
    return call < FIRST or call % EVERY == 0


def digests(weights: Iterable[Tensor], batch: Batch) -> dict[str, int]:
    """Return a number for the weights, the rows and their ids; 0 where there is nothing to compare.

    Args:
        weights: of the loss, which all ranks should have alike.
    """
    found = (_digest(weights), _digest([batch.embeddings]), _digest([] if batch.ids is None else [batch.ids]))
    return dict(zip(DIGESTS, found, strict=True))


def warn_of_copies(told: Sequence[dict[str, int]], name: str, told_already: set[str]) -> None:
    """Say once what ranks have alike and should not, or the other way round.

    Args:
        told: what each rank says; all ranks hear the same.
        name: of the loss.
        told_already: what has been said, to which this adds.
    """
    weights, rows, ids = ([each[key] for each in told] for key in DIGESTS)
    if all(weights) and len(set(weights)) > 1 and "weights" not in told_already:
        told_already.add("weights")
        other = next(k for k, one in enumerate(weights) if one != weights[0])
        warnings.warn(
            f"the weights of {name} on rank 0 are not those on rank {other}: nothing averages them. Create "
            "the loss with the same seed on all ranks, and wrap it together with the network, in one module "
            "(DistributedDataParallel(nn.ModuleDict({'network': …, 'loss': …}))).",
            stacklevel=5,
        )
    for digest, what in ((ids, "ids"), (rows, "rows")):
        pair = _twice(digest)
        if pair is not None and "rows" not in told_already:
            told_already.add("rows")
            warnings.warn(
                f"ranks {pair[0]} and {pair[1]} gave {name} the same {what}: one batch is there twice. Give "
                "each rank its own share of every batch (nearfar.data.Share, or a DistributedSampler).",
                stacklevel=5,
            )


def _twice(digests: Sequence[int]) -> tuple[int, int] | None:
    seen: dict[int, int] = {}
    for rank, digest in enumerate(digests):
        if digest and digest in seen:
            return seen[digest], rank
        seen[digest] = rank
    return None


def _digest(given: Iterable[Tensor]) -> int:
    """Return the sum of the bits, whatever the order of rows; 0 for nothing, or for a part of a tensor."""
    total = 0
    for x in given:
        if hasattr(x, "to_local"):  # each rank has a part of it
            return 0
        if x.numel():
            bits = x.detach().contiguous().view(_BITS[x.element_size()]).flatten()
            total += int(bits.sum(dtype=torch.int64)) + 1
    return total % 2**62

"""What each pair does to a loss: dL/dS of a batch and a memory, for looking at, not for learning."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from nearfar.criterion.batch import Batch
from nearfar.criterion.classes import meet
from nearfar.criterion.comparison import compare
from nearfar.criterion.finite import judge
from nearfar.criterion.module import Loss
from nearfar.criterion.past import Share
from nearfar.criterion.weights import with_class_weights
from nearfar.distributed import settings
from nearfar.memory import CrossBatchMemory
from nearfar.memory.recalled import Recalled
from nearfar.pairs import Pairs
from nearfar.similarity.dense.slopes import NotOfPairs, SlopesBlock, TooManyPairs

MOST = 2**20
"""Comparisons that are looked at; with more, so many anchors as have so many."""
FEWEST = 4
"""Anchors that are looked at whatever the memory."""
WHOLE = 2**23
"""Comparisons up to which a loss is looked at whose anchors cannot be taken one by one."""


@dataclass(frozen=True, eq=False)
class PairSlopes:
    """dL/dS of the pairs of some anchors, by where the other one is.

    Attributes:
        batch, memory: for each anchor and candidate; 0 for a pair that does not count.
        of: how many anchors the batch has; with fewer here, these are a random part of them.
    """

    batch: Float[Tensor, "anchor n"]
    memory: Float[Tensor, "anchor m"]
    of: int


def pair_slopes(
    loss: Loss,
    embeddings: Float[Tensor, "n dim"],
    labels: Int[Tensor, " n"],
    ids: Int[Tensor, " n"] | None,
    memory: CrossBatchMemory,
    *,
    seed: int,
) -> PairSlopes | None:
    """Derive a loss by the similarity of each pair, before the memory takes in the batch.

    Of a large batch or memory a part of the anchors is looked at, drawn by ``seed``; where the loss is a mean
    over anchors, their slopes are those that they have in the batch, times one number. Random numbers
    that a rule draws are those that the loss will draw; torch's generator is left as it was.

    Across ranks every rank must call this, with the rows of all.

    Returns:
        None while the memory is empty; for a loss that is no function of the similarities of anchors with
        candidates alone (it compares candidates with each other); where it needs all anchors and these are
        too many; and where a sharded memory is too large to be put together.
    """
    recalled = memory.read(embeddings)
    if recalled is None or memory.bytes_to_gather > settings.budget:
        return None
    recalled = recalled.whole()
    # The same order as in the loss, where a rule draws twice.
    alone: list[Share] = [(1.0, None)] if memory.combine == "sum" else []
    comparisons: list[Share] = [(recalled.weight, recalled), *alone]
    width = len(embeddings) + len(recalled.stored)
    judged = judge((embeddings, *loss.numbers))
    n, batch = len(embeddings), judged.batch(Batch(embeddings.detach(), labels, ids=ids))
    drawn = torch.randperm(n, generator=torch.Generator().manual_seed(seed)).to(labels.device)
    most = max(FEWEST, MOST // width)
    if not loss._separable:
        most = n if n * width <= WHOLE else 0
    while most:
        rows = None if most >= n else drawn[:most].sort().values
        state = torch.get_rng_state()
        try:
            parts = [_derived(loss, batch, rows, *comparison) for comparison in comparisons]
            break
        except TooManyPairs as too_many:
            most = int(min(most, n) * too_many.share) if loss._separable else 0
        except NotOfPairs:
            return None
        finally:
            torch.set_rng_state(state)
    else:
        return None
    against, *itself = parts
    here = n if recalled.with_batch else 0
    beside = itself[0] if itself else against[:, :here]
    return PairSlopes(judged.value(beside), judged.value(against[:, here:]), n)


def _derived(
    loss: Loss, batch: Batch, rows: Int[Tensor, " anchor"] | None, share: float, recalled: Recalled | None
) -> Float[Tensor, "anchor candidate"]:
    """Return the slopes of one comparison.

    Raises:
        NotOfPairs: if other similarities count.
        TooManyPairs: if matrices would be too large.
    """
    x, n = batch.embeddings, len(batch.embeddings)
    anchors, others = (x, None) if rows is None else (x[rows], x)
    compared = compare(anchors, others, batch, rows, n, recalled, loss._entry.view, loss.similarity, "dense")
    block = SlopesBlock.of(
        compared.anchors, compared.candidates, compared.measure, compared.relation, compared.stored
    )
    weights = with_class_weights(None, loss.class_weights, batch.labels)
    met = meet(loss.name, loss.classes_on(batch.embeddings.device), batch.labels, 1.0)
    places = None if met is None else met.place
    if rows is not None:
        weights, places = (None if each is None else each[rows] for each in (weights, places))
    learned = {name: value.detach() for name, value in dict(loss.learned).items()}
    with torch.enable_grad(), torch.autocast(x.device.type, enabled=False):
        terms = loss._terms(loss._mined(Pairs.over(block)), places, learned)
        value = torch.stack([part.reduce(loss.reduction, weights, loss.tilt) for part in terms]).sum()
        if not value.requires_grad:
            return torch.zeros_like(block.matrix)
        leaves = [block.matrix, *([block.candidates] if block.candidates.requires_grad else [])]
        found, *other = torch.autograd.grad(share * value, leaves, allow_unused=True)
    if any(slope is not None and bool(slope.any()) for slope in other):
        raise NotOfPairs
    return torch.zeros_like(block.matrix) if found is None else found

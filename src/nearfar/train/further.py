"""Numbers of a step that not every run has: of its memory, its proxies, and the parts of a sum of losses."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from nearfar.criterion.pair_slopes import pair_slopes
from nearfar.distributed import gather_rows, total
from nearfar.losses import Loss, Sum
from nearfar.memory import CrossBatchMemory
from nearfar.similarity.stable import normalize
from nearfar.train.watch import spread


def told_by(loss: Loss | Sum) -> Loss:
    """Return the loss whose statistics are told: of a sum, the first."""
    first = next(iter(loss.losses.values())) if isinstance(loss, Sum) else loss
    assert isinstance(first, Loss)
    return first


def active_pairs(
    loss: Loss | Sum,
    memory: CrossBatchMemory,
    embeddings: Float[Tensor, "n dim"],
    labels: Int[Tensor, " n"],
    ids: Int[Tensor, " n"],
    *,
    step: int,
) -> dict[str, float]:
    """Return what batch and memory contribute to the gradient; ask before the batch is stored.

    A pair (anchor, candidate) is active where dL/dS is not 0, with S its similarity. ``active_in_batch`` and
    ``active_in_memory`` are active pairs for each anchor, ``pairs_from_memory`` is the memory's share of
    them, and ``gradient_from_memory`` its share of Σ|dL/dS|: for a smooth loss every pair is active, and
    only this share tells. Of a sum it is the first loss that compares with the memory. Nothing is returned
    where there is nothing to tell (see ``pair_slopes``).

    Args:
        embeddings, labels, ids: of this rank; those of all ranks are put together.
        step: seeds which anchors are looked at, where these are not all.
    """
    every = loss.losses.values() if isinstance(loss, Sum) else [loss]
    told = next(one for one in every if isinstance(one, Loss) and one.compares_with_the_batch)
    embeddings, labels, ids = (gather_rows(x) for x in (embeddings.detach(), labels, ids))
    slopes = pair_slopes(told, embeddings, labels, ids, memory, seed=step)
    if slopes is None:
        return {}
    anchors = max(1, len(slopes.batch))
    here, there = (float((x != 0).sum()) for x in (slopes.batch, slopes.memory))
    pull, past = (float(x.abs().sum(dtype=torch.float64)) for x in (slopes.batch, slopes.memory))
    numbers = {"active_in_batch": here / anchors, "active_in_memory": there / anchors}
    if here + there:
        numbers["pairs_from_memory"] = there / (here + there)
    if pull + past:
        numbers["gradient_from_memory"] = past / (pull + past)
    return numbers


def further_numbers(loss: Loss | Sum, memory: CrossBatchMemory | None) -> dict[str, float]:
    """Return what there is to tell after a step.

    ``memory_filled`` is the share of slots in use; ``memory_drift`` the mean cosine of embeddings with their
    older versions (1: the network stands still); ``proxy_spread`` how far the proxies point apart (0: all
    alike, 1: everywhere); ``loss_NAME`` the value of a part of a sum, without its weight.
    """
    told: dict[str, float] = {}
    if isinstance(loss, Sum):
        told |= {f"loss_{name}": float(value) for name, value in loss.parts.items()}
    if memory is not None:
        told["memory_filled"] = len(memory) / memory.size
        if memory.drift is not None and not memory.drift.isnan():
            told["memory_drift"] = float(memory.drift)
    every = loss.losses.values() if isinstance(loss, Sum) else [loss]
    first = next((one for one in every if isinstance(one, Loss) and one.proxies is not None), None)
    if first is not None:
        told["proxy_spread"] = _proxy_spread(first)
    return told


def _proxy_spread(loss: Loss) -> float:
    """How far the proxies point apart, those of all ranks where these share them out."""
    assert loss.proxies is not None
    unit = normalize(loss.proxies.detach())
    if loss.shard is None:
        return float(spread(unit))
    mean = total(unit.sum(0, dtype=torch.float64)) / sum(loss.shard.counts)
    apart = (unit - mean).square().sum()
    return float(total(apart)) / sum(loss.shard.counts)

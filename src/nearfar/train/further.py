"""Numbers of a step that not every run has: of its memory, its proxies, and the parts of a sum of losses."""

from dataclasses import replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from nearfar.losses import Loss, Sum
from nearfar.memory import CrossBatchMemory
from nearfar.pairs import Pairs
from nearfar.similarity import ArgMax
from nearfar.similarity.stable import normalize
from nearfar.train.watch import spread


def told_by(loss: Loss | Sum) -> Loss:
    """Return the loss whose statistics are told: of a sum, the first."""
    first = next(iter(loss.losses.values())) if isinstance(loss, Sum) else loss
    assert isinstance(first, Loss)
    return first


@torch.no_grad()
def share_of_memory(
    memory: CrossBatchMemory,
    loss: Loss | Sum,
    embeddings: Float[Tensor, "n dim"],
    labels: Int[Tensor, " n"],
    ids: Int[Tensor, " n"],
) -> float | None:
    """Return the share of anchors whose nearest negative lies in the memory; ask before the batch is stored.

    None while the memory is empty. Near 0 later on, the memory adds little to the batch.
    """
    past = memory.recall(embeddings, labels, ids, learning=False)
    if past is None:
        return None
    both = replace(past, with_batch=True)
    relation = both.relate(len(embeddings), labels, ids)
    pairs = Pairs.of(embeddings, embeddings, relation, told_by(loss).similarity, stored=both.stored)
    (nearest,) = pairs.stream(ArgMax())
    return (nearest >= len(embeddings)).float().mean().item()


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
    proxies = next((one.proxies for one in every if isinstance(one, Loss) and one.proxies is not None), None)
    if proxies is not None:
        told["proxy_spread"] = float(spread(normalize(proxies.detach())))
    return told

"""What a training loop has to know of classes shared out over ranks: which weights are a rank's own."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from nearfar.criterion.ranks.shard import Shard
from nearfar.errors import NearfarError

PROXIES = "proxies"


def save_whole(module: nn.Module, state: dict[str, Any], prefix: str, _: Any) -> None:
    """Put the vectors of all ranks where those of this rank are: a hook of ``state_dict``."""
    shard, own = _shard_of(module)
    shard.check("a loss")
    state[prefix + PROXIES] = shard.whole(own)


def load_own(module: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
    """Take this rank's vectors out of those of all ranks: a hook of ``load_state_dict``.

    Raises:
        NearfarError: if they are of another number of classes.
    """
    shard, _own = _shard_of(module)
    every = state.get(prefix + PROXIES)
    if every is None:
        return
    if len(every) != sum(shard.counts):
        raise NearfarError(
            f"{prefix}{PROXIES} has {len(every)} vectors but the loss has {sum(shard.counts)}, on all ranks "
            "together; load a checkpoint of the same classes."
        )
    state[prefix + PROXIES] = every[shard.rows]


def sharded_weights(module: nn.Module) -> Iterator[tuple[str, nn.Parameter, Shard]]:
    """Name the parameters that are this rank's own, anywhere in ``module``."""
    for name, part in module.named_modules():
        if isinstance(getattr(part, "shard", None), Shard):
            shard, own = _shard_of(part)
            yield f"{name}.{PROXIES}".lstrip("."), own, shard


def keep_shards(model: nn.Module) -> nn.Module:
    """Tell ``DistributedDataParallel`` to leave the class vectors that a rank has for itself as they are.

    It would copy those of rank 0 to all ranks, and average their gradients. Call this before wrapping:

        model = DistributedDataParallel(nearfar.losses.keep_shards(model))

    Returns:
        The same module.
    """
    names = [name for name, _, _ in sharded_weights(model)]
    before = getattr(model, "_ddp_params_and_buffers_to_ignore", [])
    model._ddp_params_and_buffers_to_ignore = [*before, *names]  # pyrefly: ignore
    return model


def optimizer_state(optimizer: torch.optim.Optimizer, model: nn.Module) -> dict[str, Any]:
    """Return ``optimizer.state_dict()`` with what it keeps of the class vectors of all ranks, in their order.

    Every rank must call this, and gets the same.

    Args:
        model: holds the losses whose classes are shared out.
    """
    return _changed(optimizer, model, optimizer.state_dict(), lambda x, shard: shard.whole(x))


def load_optimizer_state(optimizer: torch.optim.Optimizer, model: nn.Module, state: dict[str, Any]) -> None:
    """Load what ``optimizer_state`` has returned, on any number of ranks: each takes its part."""
    optimizer.load_state_dict(_changed(optimizer, model, state, lambda x, shard: x[shard.rows]))


def _changed(
    optimizer: torch.optim.Optimizer,
    model: nn.Module,
    state: dict[str, Any],
    change: Callable[[Tensor, Shard], Tensor],
) -> dict[str, Any]:
    """Change all that has a row for each class vector."""
    shards = {id(own): shard for _, own, shard in sharded_weights(model)}
    weights = [p for group in optimizer.param_groups for p in group["params"]]
    kept = dict(state["state"])
    for number, p in enumerate(weights):
        if id(p) in shards and number in kept:
            kept[number] = {
                key: change(x, shards[id(p)]) if isinstance(x, Tensor) and x.ndim == p.ndim else x
                for key, x in kept[number].items()
            }
    return {**state, "state": kept}


def _shard_of(module: nn.Module) -> tuple[Shard, nn.Parameter]:
    shard, own = module.shard, module.proxies
    assert isinstance(shard, Shard)
    assert isinstance(own, nn.Parameter)
    return shard, own

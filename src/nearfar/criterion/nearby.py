"""A loss whose rows lie on a device that lacks float64, such as Apple's: the CPU, which has it, computes it.

Sums and distances of a loss are exact because some of them run in float64. The rows of a batch are small
beside the network that made them, so they are brought over, and their gradient is brought back.
"""

from dataclasses import fields
from typing import Any

from torch import Tensor, nn
from torch.func import functional_call

from nearfar.criterion.batch import Batch
from nearfar.similarity import Relevance

LACKING = {"mps"}
"""Kinds of devices without float64."""


def lacks_float64(x: Any) -> bool:
    """Whether ``x`` lies on a device that has no float64."""
    return isinstance(x, Tensor) and x.device.type in LACKING


def computed_nearby(loss: nn.Module, batch: Batch, memory: Any) -> Tensor:
    """Return ``loss.compared(batch, memory)`` as the CPU computes it, on the device of the embeddings.

    Args:
        loss: its parameters may lie on any device; numbers that run over batches are written back to theirs.
        batch: on any device.
        memory: of past steps, which lies where its first batch lay.
    """
    call = _Call(loss)
    near = {name: x.cpu() for name, x in (*call.named_parameters(), *call.named_buffers())}
    moved = Batch(**{field.name: _near(getattr(batch, field.name)) for field in fields(batch)})
    value = functional_call(call, near, (moved, memory))
    for name, buffer in call.named_buffers():
        buffer.copy_(near[name])
    return value.to(batch.embeddings.device)


class _Call(nn.Module):
    """What ``functional_call`` needs: a module whose ``forward`` is the method of another."""

    def __init__(self, loss: nn.Module) -> None:
        super().__init__()
        self.loss = loss

    def forward(self, batch: Batch, memory: Any) -> Tensor:
        return self.loss.compared(batch, memory)  # pyrefly: ignore


def _near(x: Any) -> Any:
    if isinstance(x, Relevance):
        return Relevance(pairs=x.pairs.cpu())
    return x.cpu() if isinstance(x, Tensor) else x

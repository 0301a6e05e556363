"""Losses in the loops of others: a GradScaler, and a compiled module of network and loss."""

import pytest
import torch
from torch import nn

import nearfar


class System(nn.Module):
    def __init__(self, name: str, **more) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net, self.loss = nn.Linear(8, 4), nearfar.losses.create(name, **more)

    def forward(self, x: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return self.loss(self.net(x), labels)


CASES = [("supcon", {}), ("triplet", {"mining": "hard"}), ("arcface", {"classes": 4, "dim": 4})]
X, Y = torch.randn(12, 8, generator=torch.Generator().manual_seed(1)), torch.arange(12) // 3


@pytest.mark.parametrize(("name", "more"), CASES)
def test_a_scaled_loss_is_the_same_step(name, more):
    """A power of two changes no digit of a gradient."""
    plain, scaled = System(name, **more), System(name, **more)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    for module in (plain, scaled):
        optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
        for _ in range(3):
            optimizer.zero_grad()
            if module is plain:
                module(X, Y).backward()
                optimizer.step()
            else:
                scaler.scale(module(X, Y)).backward()
                scaler.step(optimizer)
                scaler.update()
    for one, other in zip(plain.parameters(), scaled.parameters(), strict=True):
        assert torch.equal(one, other)


# Dynamo looks at .grad of tensors that are no leaves, and tells of what it leaves to Python.
@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(("name", "more"), CASES[1:])
def test_a_compiled_module_is_the_same_step(name, more):
    """Compiled as far as it goes; the backend that changes no arithmetic."""
    plain, again = System(name, **more), System(name, **more)
    compiled = torch.compile(again, backend="eager")
    for module, call in ((plain, plain), (again, compiled)):
        for _ in range(2):
            call(X, Y).backward()
        assert module.net.weight.grad.abs().sum() > 0
    for one, other in zip(plain.parameters(), again.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad)

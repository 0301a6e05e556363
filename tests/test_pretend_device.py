"""The pretend device is as strict as a real one."""

import copy
import io
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn


@pytest.fixture
def x(device: str) -> Tensor:
    return torch.arange(6.0).view(2, 3).to(device)


FACTORIES = {
    "tensor": lambda device: torch.tensor([1.0, 2.0], device=device),
    "as_tensor": lambda device: torch.as_tensor(np.ones(2), device=device),
    "zeros": lambda device: torch.zeros(2, device=device),
    "full": lambda device: torch.full((2,), 3, device=device),
    "arange": lambda device: torch.arange(2, device=device),
    "linspace": lambda device: torch.linspace(0, 1, 2, device=device),
    "randn": lambda device: torch.randn(2, device=device),
    "randperm": lambda device: torch.randperm(2, device=device),
    "scalar_tensor": lambda device: torch.scalar_tensor(2.0, device=device).expand(2),
    "empty_strided": lambda device: torch.empty_strided((2,), (1,), device=device),
}


@pytest.mark.parametrize("name", FACTORIES)
def test_a_factory_makes_it_on_the_device(device, name):
    made = FACTORIES[name](device)
    assert made.device == torch.device(device, 0)
    assert not made.is_cpu
    assert not made.is_cuda
    assert made.shape == (2,)
    assert made.cpu().device.type == "cpu"


MIXED = {
    "add": lambda x: x + torch.ones(2, 3),
    "add into": lambda x: torch.ones(2, 3).add_(x),
    "a number of the device into the CPU": lambda x: torch.ones(2, 3) + x[0, 0],
    "product": lambda x: x @ torch.ones(3, 2),
    "cat": lambda x: torch.cat([x, torch.ones(1, 3)]),
    "stack of numbers": lambda x: torch.stack([x[0, 0], torch.ones(())]),
    "index of the CPU": lambda x: x[torch.tensor([0])],
    "index of the device": lambda x: torch.ones(3)[torch.tensor([0]).to(x.device)],
    "gather": lambda x: x.gather(1, torch.zeros(2, 1, dtype=torch.long)),
    "scatter": lambda x: x.scatter(1, torch.zeros(2, 1, dtype=torch.long), 1.0),
    "where": lambda x: torch.where(torch.ones(2, 3) > 0, x, 0.0),
    "mask": lambda x: x.masked_fill(torch.ones(2, 3) > 0, 0.0),
    "searchsorted": lambda x: torch.searchsorted(x[0], torch.ones(2)),
    "out": lambda x: torch.mul(x, 2, out=torch.empty(2, 3)),
    "generator of the CPU": lambda x: torch.rand(2, device=x.device, generator=torch.Generator()),
    "numpy": lambda x: x.numpy(),
    "asarray": np.asarray,
}


@pytest.mark.parametrize("name", MIXED)
def test_what_mixes_devices_fails(x, name):
    with pytest.raises(RuntimeError, match=r"on pretend is given|numpy\(\) is not supported"):
        MIXED[name](x)


def test_a_number_of_the_cpu_goes_into_arithmetic(x):
    number = torch.tensor(2.0)
    for found in (x * number, number + x, torch.where(x > 1, x, number), x.masked_fill(x > 1, number)):
        assert found.device.type == "pretend"


def test_gradients_stay_on_the_device(x):
    class Cube(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            ctx.save_for_backward(x)
            return x**3

        @staticmethod
        def backward(ctx: Any, upstream: Tensor) -> Tensor:  # pyrefly: ignore[bad-override]
            return 3 * ctx.saved_tensors[0] ** 2 * upstream

    x = x.requires_grad_()
    (Cube.apply(x).sum() + x.sum()).backward()
    assert x.grad is not None
    assert x.grad.device == x.device
    torch.testing.assert_close(x.grad.cpu(), 3 * x.detach().cpu() ** 2 + 1)


def test_views_and_shapes_follow_what_is_done_in_place(x):
    x[1].mul_(10)
    x[:, 0] = 7
    assert x.tolist() == [[7, 1, 2], [7, 40, 50]]
    x.unsqueeze_(0)
    assert x.shape == (1, 2, 3)
    found = torch.empty(0, device=x.device)
    torch.add(x, 1, out=found)
    assert found.shape == (1, 2, 3)


def test_a_network_moves_learns_and_is_copied(device):
    network = nn.Linear(3, 2).to(device)
    before = network.weight.detach().clone()
    optimizer = torch.optim.AdamW(network.parameters())
    network(torch.ones(4, 3, device=device)).sum().backward()
    optimizer.step()
    again = copy.deepcopy(network)
    file = io.BytesIO()
    torch.save(network, file)
    file.seek(0)
    read = torch.load(file, weights_only=False)
    for one in (again, read):
        assert isinstance(one.weight, nn.Parameter)
        assert one.weight.device.type == device
        assert (one.weight == network.weight).all()
        assert (one.weight != before).any()
    assert network.cpu().weight.device.type == "cpu"


def test_waits(x):
    import pretend_device

    index, free = torch.tensor([1]).to(x.device), torch.zeros(2, 3)
    with pretend_device.waits() as found:
        x[index] = (x + 1).cumsum(0).amax(0)
        x.masked_fill_(x > 1, 0.0)
        x[x > 1] = 0.0
        torch.zeros(2, device=x.device)
        torch.ones(2).to(x.device, non_blocking=True)
    assert found == []
    for wait in (
        x.cpu,
        x.tolist,
        x.sum().item,
        x.nonzero,
        x.unique,
        lambda: bool((x > 1).any()),
        lambda: x[x > 1],
        lambda: free.copy_(x),
        lambda: torch.tensor([1], device=x.device),
        lambda: torch.repeat_interleave(x[0], index.expand(3)),
    ):
        with pretend_device.waits() as found:
            wait()
        assert len(found) == 1

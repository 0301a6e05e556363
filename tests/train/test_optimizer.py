"""Groups of weights: whose learning rate is whose, and what decays."""

import pytest
import torch
from torch import nn

from nearfar.config import Optimizer
from nearfar.train.optimizer import create_optimizer, parameter_groups, rest, set_learning_rates
from nearfar.train.schedule import Schedule


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
        self.head = nn.Linear(4, 2)


class Proxies(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.proxies = nn.Parameter(torch.ones(5, 2))


SETTINGS = Optimizer(lr=0.1, head_lr=0.2, loss_lr=0.3, weight_decay=0.01)


def groups_of(model: Model, loss: nn.Module, start: int = 0) -> list[dict]:
    return parameter_groups(model.backbone, model, loss, SETTINGS, start)


def test_each_part_has_its_rate_and_flat_weights_do_not_decay() -> None:
    model, loss = Model(), Proxies()
    found = {
        (group["role"], group["base_lr"], group["weight_decay"]): {id(p) for p in group["params"]}
        for group in groups_of(model, loss)
    }
    conv, norm = model.backbone
    assert found == {
        ("backbone", 0.1, 0.01): {id(conv.weight)},
        ("backbone", 0.1, 0.0): {id(conv.bias), id(norm.weight), id(norm.bias)},
        ("head", 0.2, 0.01): {id(model.head.weight)},
        ("head", 0.2, 0.0): {id(model.head.bias)},
        ("loss", 0.3, 0.0): {id(loss.proxies)},
    }


def test_frozen_weights_are_left_out() -> None:
    model = Model()
    model.backbone.requires_grad_(False)
    assert {group["role"] for group in groups_of(model, nn.Module())} == {"head"}


@pytest.mark.parametrize(("name", "kind"), [("adamw", torch.optim.AdamW), ("sgd", torch.optim.SGD)])
def test_optimizers(name: str, kind: type) -> None:
    settings = SETTINGS.model_copy(update={"name": name, "momentum": 0.5})
    optimizer = create_optimizer(groups_of(Model(), nn.Module()), settings)
    assert type(optimizer) is kind
    if name == "sgd":
        assert all(group["momentum"] == 0.5 for group in optimizer.param_groups)


class Caffe:
    """Caffe's SGD: the learning rate is inside the momentum, L2 decay is added to the gradient."""

    def __init__(self, weight: torch.Tensor, momentum: float, decay: float) -> None:
        self.weight, self.momentum, self.decay = weight.clone(), momentum, decay
        self.moved = torch.zeros_like(weight)

    def step(self, gradient: torch.Tensor, rate: float) -> None:
        self.moved = self.momentum * self.moved + rate * (gradient + self.decay * self.weight)
        self.weight = self.weight - self.moved


def test_sgd_moves_as_in_caffe_until_the_rate_falls() -> None:
    generator = torch.Generator().manual_seed(0)
    weight = nn.Parameter(torch.randn(3, 4, generator=generator, dtype=torch.float64))
    settings = Optimizer(name="sgd", lr=0.1, momentum=0.9, weight_decay=0.01)
    optimizer = create_optimizer([{"params": [weight], "lr": 0.1, "weight_decay": 0.01}], settings)
    caffe = Caffe(weight.detach(), 0.9, 0.01)

    def move(rate: float) -> None:
        weight.grad = torch.randn(3, 4, generator=generator, dtype=torch.float64)
        optimizer.param_groups[0]["lr"] = rate
        optimizer.step()
        caffe.step(weight.grad, rate)

    for _ in range(5):
        move(0.1)
    torch.testing.assert_close(weight.detach(), caffe.weight)
    move(0.01)
    assert (weight.detach() - caffe.weight).abs().max() > 0.01


def test_backbone_rests_until_its_step() -> None:
    optimizer = create_optimizer(groups_of(Model(), Proxies(), start=4), SETTINGS)
    schedule = Schedule("constant", steps=8, warmup=2)
    rates = []
    for step in (0, 3, 4, 5):
        set_learning_rates(optimizer, schedule, step)
        rates.append({group["role"]: round(group["lr"], 6) for group in optimizer.param_groups})
    assert rates == [
        {"backbone": 0.0, "head": 0.1, "loss": 0.15},
        {"backbone": 0.0, "head": 0.2, "loss": 0.3},
        {"backbone": 0.05, "head": 0.2, "loss": 0.3},
        {"backbone": 0.1, "head": 0.2, "loss": 0.3},
    ]


def test_a_resting_backbone_keeps_weights_and_statistics() -> None:
    model = Model()
    optimizer = create_optimizer(groups_of(model, nn.Module()), SETTINGS)
    rest(optimizer, model.backbone, True)
    before = {name: tensor.clone() for name, tensor in model.backbone.state_dict().items()}
    model.backbone(torch.randn(4, 3, 5, 5, generator=torch.Generator().manual_seed(0)))
    assert all(torch.equal(before[name], tensor) for name, tensor in model.backbone.state_dict().items())
    assert not any(p.requires_grad for p in model.backbone.parameters())
    rest(optimizer, model.backbone, False)
    assert all(p.requires_grad for p in model.backbone.parameters())

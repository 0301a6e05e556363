"""The optimiser: backbone, head and loss each with its own learning rate, no decay on biases and norms."""

from typing import Any, Literal

import torch
from torch import nn

from nearfar.config import Optimizer
from nearfar.train.schedule import Schedule

Role = Literal["backbone", "head", "loss"]


def parameter_groups(
    backbone: nn.Module, embedder: nn.Module, loss: nn.Module, config: Optimizer, head_only_steps: int = 0
) -> list[dict[str, Any]]:
    """Return groups for the optimiser, each with ``role``, ``base_lr`` and the step at which it ``start``s.

    Weights with fewer than two axes (biases, norms, a learned margin) get no weight decay, and neither do the
    proxies of a loss: pulling them towards 0 fights the normalisation.
    """
    in_backbone = {id(p) for p in backbone.parameters()}
    members: dict[tuple[Role, bool], list[nn.Parameter]] = {}
    for parameter in embedder.parameters():
        if parameter.requires_grad:
            role: Role = "backbone" if id(parameter) in in_backbone else "head"
            members.setdefault((role, parameter.ndim > 1), []).append(parameter)
    learned = [p for p in loss.parameters() if p.requires_grad]
    if learned:
        members["loss", False] = learned
    rates: dict[Role, float] = {"backbone": config.lr, "head": config.head_lr, "loss": config.loss_lr}
    return [
        {
            "params": parameters,
            "role": role,
            "base_lr": rates[role],
            "start": head_only_steps if role == "backbone" else 0,
            "lr": rates[role],
            "weight_decay": config.weight_decay if decays else 0.0,
        }
        for (role, decays), parameters in members.items()
    ]


def create_optimizer(groups: list[dict[str, Any]], config: Optimizer) -> torch.optim.Optimizer:
    """Return AdamW or SGD over ``groups``."""
    if config.name == "sgd":
        return torch.optim.SGD(groups, lr=config.lr, momentum=config.momentum)
    return torch.optim.AdamW(groups, lr=config.lr)


def set_learning_rates(optimizer: torch.optim.Optimizer, schedule: Schedule, step: int) -> None:
    """Set each group's learning rate for ``step``; 0 before the group starts."""
    for group in optimizer.param_groups:
        resting = step < group["start"]
        group["lr"] = 0.0 if resting else group["base_lr"] * schedule.factor(step, group["start"])


def rest(optimizer: torch.optim.Optimizer, backbone: nn.Module, resting: bool) -> None:
    """Freeze the backbone, its normalisation statistics included, or let it learn."""
    for group in optimizer.param_groups:
        if group["role"] == "backbone":
            for parameter in group["params"]:
                parameter.requires_grad_(not resting)
    if resting:
        backbone.eval()


def learning_rate(optimizer: torch.optim.Optimizer, role: Role) -> float:
    """Return the present learning rate of a part; 0 for a part without weights."""
    return next((group["lr"] for group in optimizer.param_groups if group["role"] == role), 0.0)

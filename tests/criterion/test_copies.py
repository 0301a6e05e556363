"""Losses live in modules that are copied, pickled, sent to other processes, saved and averaged."""

import copy
import importlib
import io
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import timm.utils
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

import nearfar
import rank_processes
from nearfar.losses import Sum
from nearfar.losses.parts.registry import has_proxies, registry
from turns import in_turns

CLASSES, DIM, N = 6, 8, 24
RULES = nearfar.mining.names()


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(N, DIM, generator=torch.Generator().manual_seed(1)), torch.arange(N) // (N // CLASSES)


def create(name: str, **more) -> nn.Module:
    torch.manual_seed(0)
    own = {"classes": CLASSES, "dim": DIM} if has_proxies(name) else {}
    return nearfar.losses.create(name, **own, **more)


def others(name: str) -> dict:
    """Every number a little different from its default, every switch turned over."""
    found = {}
    for key, parameter in registry.settings(name).parameters.items():
        value = parameter.default
        if isinstance(value, bool) and not (name == "contrastive" and key == "whole"):
            found[key] = not value
        elif isinstance(value, int) and not isinstance(value, bool):
            found[key] = value + 1
        elif isinstance(value, float):
            found[key] = value * 0.9
    return found


def made() -> dict[str, nn.Module]:
    torch.manual_seed(0)
    found = {}
    for name in nearfar.losses.names():
        found[name] = create(name)
        weigh = {"class_weights": {0: 2.0, 3: 0.5}} if name != "proxy_anchor" else {}
        found[f"{name}, other settings"] = create(name, reduction="sum", **others(name), **weigh)
    for rule in RULES:
        own = {"above": 0.1} if rule == "interval" else {}
        found[f"triplet, {rule}"] = create("triplet", mining={"name": rule, **own})
    found["margin, of each class"] = nearfar.losses.create("margin", classes=CLASSES)
    found["arcface, sampled"] = create("arcface", sample=0.5)
    found["arcface, sharded"] = create("arcface", sharded=True)
    found["Sum"] = Sum({"arcface": 1.0, "contrastive": 0.2, "triplet": 0.1}, classes=CLASSES, dim=DIM)
    return found


def by_pickle(module: nn.Module) -> nn.Module:
    return pickle.loads(pickle.dumps(module))


def by_torch(module: nn.Module) -> nn.Module:
    file = io.BytesIO()
    torch.save(module, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


@pytest.mark.filterwarnings("ignore:this batch has no positive pair")
@in_turns(2, how=[copy.deepcopy, by_pickle, by_torch], first=[0, 1])
def test_every_loss_is_copied_whole(how, first):
    """As it was made, and after a step, in turns."""
    x, labels = batch()
    for place, (name, loss) in enumerate(made().items()):
        if place % 2 == first:
            loss(x.clone().requires_grad_(), labels).backward()
        again = how(loss)
        assert repr(again) == repr(loss), name
        assert again.state_dict().keys() == loss.state_dict().keys(), name
        values = []
        for one in (loss, again):
            torch.manual_seed(2)
            rows = x.clone().requires_grad_()
            value = one(rows, labels)
            (gradient,) = torch.autograd.grad(value, rows, allow_unused=True)
            values.append((value, torch.zeros(1) if gradient is None else gradient))
        assert torch.equal(values[0][0], values[1][0]), name
        assert torch.equal(values[0][1], values[1][1]), name


def test_a_copy_does_not_carry_the_last_batch():
    loss = create("supcon")
    loss(*batch())
    assert loss.last is not None
    assert len(pickle.dumps(loss)) < 4_000
    assert by_pickle(loss).last is None


def test_a_started_process_takes_every_loss(tmp_path):
    """As data-loader workers and launchers do it: all that is sent is what pickle carries.

    A loss and a rule of one's own as well: their module is imported because they ask for it, not by hand.
    """
    (tmp_path / "own_losses.py").write_text(
        "import nearfar\n"
        "from nearfar.losses.parts.proxies import Proxies\n"
        "@nearfar.losses.register_loss(needs='positive', proxies=Proxies(lambda c, k, d: __import__('torch').ones(c * k, d)))\n"
        "def own_loss(pairs):\n    return 1 - pairs.positives.similarity\n"
        "@nearfar.mining.register_rule\n"
        "def own_rule(pairs):\n    return pairs\n"
    )
    (tmp_path / "losses.pickle").write_bytes(pickle.dumps(made()))
    rank_processes.run(with_own, 1, tmp_path, grouped=False)
    code = (
        "import pickle, torch\n"
        "own, losses = [pickle.load(open(f'{name}.pickle', 'rb')) for name in ('own', 'losses')]\n"
        "x, labels = torch.randn(24, 8), torch.arange(24) // 4\n"
        "print([loss(x, labels).ndim for loss in own], len([loss(x, labels) for loss in losses.values()]))"
    )
    found = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path
    )
    assert found.stdout.strip() == f"[0, 0] {len(made())}"


def with_own(_: int, folder: Path) -> None:
    """Write a loss and one with a rule that a module in a folder registers, in a process that then ends."""
    sys.path.insert(0, str(folder))
    importlib.import_module("own_losses")
    own = [
        nearfar.losses.create("own_loss", classes=6, dim=8),
        nearfar.losses.create("supcon", mining="own_rule"),
    ]
    (folder / "own.pickle").write_bytes(pickle.dumps(own))


def test_lightning_keeps_a_loss_among_its_hyperparameters(tmp_path):
    from lightning.pytorch import LightningModule

    class System(LightningModule):
        def __init__(self, loss: nn.Module) -> None:
            super().__init__()
            self.save_hyperparameters(ignore=[])
            self.loss = loss

    import warnings

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Attribute 'loss' is an instance of `nn.Module`")
        system = System(create("arcface"))
        again = by_pickle(dict(system.hparams))["loss"]
    assert torch.equal(again.proxies, system.loss.proxies)


def averaged(module: nn.Module, decay: float, how: str) -> nn.Module:
    if how == "timm":
        ema = timm.utils.ModelEmaV3(module, decay=decay)
        update = ema.update
    else:
        ema = AveragedModel(module, multi_avg_fn=get_ema_multi_avg_fn(decay), use_buffers=True)
        update = ema.update_parameters
    for _ in range(20):
        update(module)
    return ema.module


@pytest.mark.parametrize("decay", [0.9, 0.99, 0.999, 0.9999])
@pytest.mark.parametrize("how", ["torch", "timm"])
def test_an_average_of_weights_leaves_labels_alone(decay, how):
    """Averaged in floating point, most of a thousand labels would become others."""
    labels = torch.arange(1000) * 7 + 16_777_217  # beyond what float32 tells apart
    loss = nearfar.losses.create(
        "normalized_softmax",
        classes=labels,
        dim=4,
        class_weights={16_777_217 + 7 * k: 0.5 for k in range(300)},
    )
    both = nn.ModuleDict({"loss": loss, "sum": Sum({"arcface": 1.0}, classes=labels, dim=4)})
    again = averaged(both, decay, how)
    assert torch.equal(again["loss"].class_labels, labels)
    assert torch.equal(again["loss"].class_weights.labels, labels[:300])
    assert torch.equal(again["sum"].losses["arcface"].class_labels, labels)
    x = torch.randn(1000, 4)
    torch.testing.assert_close(again["loss"](x, labels), loss(x, labels))


def test_no_loss_keeps_whole_numbers_where_an_average_finds_them():
    for name, loss in made().items():
        wrong = [key for key, value in loss.named_buffers() if not value.is_floating_point()]
        assert not wrong, (name, wrong)


def test_labels_are_saved_and_loaded():
    """Under the name and with the shape that they had as buffers, so that older checkpoints load as well."""
    labels = torch.tensor([3, 5, 9])
    loss = nearfar.losses.create("arcface", classes=labels, dim=4, class_weights={5: 2.0})
    state = loss.state_dict()
    assert set(state) == {"proxies", "class_labels", "class_weights.weights", "class_weights.labels"}
    assert torch.equal(state["class_labels"], labels)
    again = nearfar.losses.create("arcface", classes=3, dim=4, class_weights={1: 3.0})
    again.load_state_dict(state)
    assert torch.equal(again.class_labels, labels)
    assert again.class_weights.labels.tolist() == [5]
    x = torch.randn(3, 4)
    assert torch.equal(again(x, labels), loss(x, labels))
    state["class_labels"][:] = 0
    assert torch.equal(loss.class_labels, labels)
    assert torch.equal(again.class_labels, labels)
    del state["class_labels"]
    with pytest.raises(RuntimeError, match=r'Missing key.*"class_labels"'):
        again.load_state_dict(state)
    again.load_state_dict(state, strict=False)
    with pytest.raises(RuntimeError, match="class_labels has 3 classes but the loss has 4"):
        nearfar.losses.create("arcface", classes=4, dim=4).load_state_dict(loss.state_dict(), strict=False)


def test_labels_follow_the_batch_and_no_conversion():
    loss = nearfar.losses.create("arcface", classes=torch.tensor([1, 70_001]), dim=4).half().float().double()
    assert loss.class_labels.tolist() == [1, 70_001]
    with torch.device("meta"):
        empty = nearfar.losses.create("arcface", classes=2, dim=4)
    empty.to_empty(device="cpu").load_state_dict(loss.state_dict())
    assert empty.class_labels.tolist() == [1, 70_001]

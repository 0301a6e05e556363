"""Nothing waits for a small batch: no loss, rule or memory, but for the few transfers that are listed here.

A transfer is what the host must know of a device before it can go on. On the CPU it knows everything; the second
half of the tests takes away what a host can read at once there, so that the CPU goes the way of a device.
"""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import nearfar
from counting import counted
from nearfar.errors import NearfarError
from nearfar.losses.parts.registry import has_proxies, registry
from nearfar.losses.parts.views import as_given, distances
from nearfar.similarity import relation, stable
from turns import in_turns

N, DIM, CLASSES = 128, 32, 32
X = torch.randn(N, DIM, generator=torch.Generator().manual_seed(0))
Y = torch.arange(N) // 4
NAMES = nearfar.losses.names()
AMONG_EACH_OTHER = [name for name in NAMES if not has_proxies(name)]
RULES = {name: {"name": name} for name in nearfar.mining.names()} | {
    "interval": {"name": "interval", "above": -1.0}
}
THRESHOLDS = ("interval", "multi_similarity", "relative")

EACH = (
    *("angular", "npair_ovo", "quadruplet", "rank_hard", "recall_at_k", "roadmap", "smooth_ap"),
    *("triplet", "triplet_softmax"),
)
"""Losses that look at each positive with each negative: of a device they ask how many positives an anchor has."""
TRIPLETS = ("distance_weighted", "semi_hard")
"""Rules that do, so that the loss need not."""
FEW = ("easy", "easy_positive", "hard")
"""Rules that leave one positive: nothing to ask."""
NAMED = ("random", "top_k")
"""Rules that name a few negatives, which a triplet meets with every positive there could be."""


def refused(name: str, rule: str) -> bool:
    """Whether a rule says nothing to a loss."""
    by_threshold = name in ("angular", "quadruplet") and rule in THRESHOLDS
    return by_threshold or (rule == "distance_weighted" and not of_unit_length(name))


def of_unit_length(name: str) -> bool:
    return name != "snr_contrastive" and registry[name].view is not as_given


def transfers(name: str, rule: str) -> int:
    """How often a device is waited for, in forward and backward pass."""
    few = rule in FEW or (name == "triplet" and rule in NAMED)
    number = int(rule in TRIPLETS or (name in EACH and not few))
    if rule == "distance_weighted":
        # Whether vectors are of unit length is asked where the measure does not say.
        view = registry[name].view
        number += view is distances or (view is not None and view(X[:1], "cosine")[1] != "cosine")
    return number


def create(name: str, **settings: Any) -> nearfar.losses.Loss:
    torch.manual_seed(0)
    if has_proxies(name):
        settings |= {"classes": CLASSES, "dim": DIM}
    return nearfar.losses.create(name, **settings)


Call = Callable[[nearfar.losses.Loss, Tensor], Tensor]


def alone(loss: nearfar.losses.Loss, x: Tensor) -> Tensor:
    return loss(x, Y)


def waits(loss: nearfar.losses.Loss, call: Call = alone, *, on_a_device: bool = False) -> list[str]:
    """What a second call waits for."""
    found: list[str] = []
    for _ in range(2):
        x = X.clone().requires_grad_()
        with counted(on_a_device=on_a_device) as seen:
            value = call(loss, x)
            value.backward()
        found = seen.waits
    return found


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a device that a host cannot read."""
    monkeypatch.setattr(stable, "AT_ONCE", ())


@in_turns(4, name=AMONG_EACH_OTHER, rule=RULES)
def test_no_rule_waits(name, rule):
    if refused(name, rule["name"]):
        with pytest.raises(NearfarError):
            alone(create(name, mining=rule), X)
    else:
        assert waits(create(name, mining=rule)) == []


@in_turns(4, name=AMONG_EACH_OTHER, rule=RULES)
def test_a_device_is_waited_for_as_listed(name, rule, device):
    if not refused(name, rule["name"]):
        found = waits(create(name, mining=rule), on_a_device=True)
        assert len(found) == transfers(name, rule["name"]), found


@pytest.mark.parametrize("name", [name for name in NAMES if has_proxies(name)])
def test_no_loss_with_classes_waits(name, monkeypatch):
    assert waits(create(name)) == []
    monkeypatch.setattr(stable, "AT_ONCE", ())
    assert waits(create(name), on_a_device=True) == []


SETTINGS: list[tuple[str, int, dict[str, Any]]] = [
    ("npair", 0, {"similarity": "dot", "l2": 0.1}),
    ("nca", 1, {"neighbours": 5}),
    ("smooth_ap", 1, {"with_self": True}),
    ("recall_at_k", 1, {"with_self": True, "out_of": "reachable"}),
    ("roadmap", 1, {"offset": 1.44}),
    ("rank_hard", 1, {"negatives": 4}),
    ("triplet_weighted", 0, {"self_positive": "always", "eps": 1e-6}),
    ("triplet_weighted", 0, {"self_positive": "alone", "mining": "hard"}),
    ("center", 0, {"gradient": "paper"}),
    ("contrastive", 0, {"reduction": "tilted", "tilt": 2.0}),
    ("supcon", 1, {"class_weights": torch.ones(CLASSES)}),
    ("arcface", 2, {"class_weights": torch.ones(CLASSES)}),
    ("arcface", 2, {"sample": 0.5}),
    ("supcon", 1, {"unlabelled": 5}),
    ("margin", 1, {"classes": CLASSES}),
    ("supcon", 0, {"mining": {"name": "top_k", "keep_positives": 2}}),
    ("supcon", 0, {"mining": {"name": "random", "keep_positives": 2}}),
    ("supcon", 1, {"mining": {"name": "semi_hard", "otherwise": "farthest"}}),
    *(
        ("supcon", 0, {"mining": {"name": "relative", f"{side}_method": method, f"{side}_over": over}})
        for side in ("positive", "negative")
        for method in ("hard", "easy", "relative_hard", "relative_easy")
        for over in ("anchor", "batch")
    ),
]
"""Losses, how often they wait for a device, and with which settings."""


@pytest.mark.parametrize(("name", "number", "settings"), SETTINGS, ids=str)
def test_no_setting_waits(name, number, settings, monkeypatch):
    assert waits(create(name, **settings)) == []
    monkeypatch.setattr(stable, "AT_ONCE", ())
    assert len(waits(create(name, **settings), on_a_device=True)) == number


@pytest.mark.parametrize("name", AMONG_EACH_OTHER)
@pytest.mark.parametrize("given", ["candidates", "weights", "ids", "memory", "memory with ids"])
def test_no_further_argument_waits(name, given, monkeypatch):
    """A memory stores the rows that are finite, of a number that the host must know, and meets its ids."""
    call, more = CALLS[given]
    if given != "weights" and registry[name].needs == "nothing":
        return
    assert waits(create(name), call()) == []
    monkeypatch.setattr(stable, "AT_ONCE", ())
    assert len(waits(create(name), call(), on_a_device=True)) == transfers(name, "all") + more


def against_candidates() -> Call:
    return lambda loss, x: loss(x, Y, X.roll(1, 0) + 0.1, Y.roll(1))


def weighed() -> Call:
    return lambda loss, x: loss(x, Y, weights=torch.ones(N))


def named() -> Call:
    return lambda loss, x: loss(x, Y, ids=torch.arange(N))


def remembered() -> Call:
    memory = nearfar.CrossBatchMemory(2 * N)
    return lambda loss, x: loss(x, Y, memory=memory)


def remembered_by_id() -> Call:
    memory = nearfar.CrossBatchMemory(2 * N)
    return lambda loss, x: loss(x, Y, memory=memory, ids=torch.arange(N))


CALLS: dict[str, tuple[Callable[[], Call], int]] = {
    "candidates": (against_candidates, 0),
    "weights": (weighed, 0),
    "ids": (named, 0),
    "memory": (remembered, 1),
    "memory with ids": (remembered_by_id, 2),
}
"""Calls, and how often they wait for a device beside the loss itself."""


@pytest.mark.parametrize("wrong", [-1.0, torch.nan, torch.inf])
def test_wrong_weights_on_a_device(wrong, device):
    """Nobody waits to see them: the loss is NaN, and the next batch is refused."""
    loss, x, weights = create("contrastive"), X.clone().requires_grad_(), torch.ones(N)
    assert loss(x, Y, weights=weights).isfinite()
    weights[3] = wrong
    value = loss(x, Y, weights=weights)
    assert value.isnan()
    (gradient,) = torch.autograd.grad(value, x)
    assert gradient.isnan().all()
    with pytest.raises(NearfarError, match="1 of the 128 weights of the last batch were negative"):
        loss(x, Y)
    assert loss(x, Y).isfinite()


@in_turns(3, name=AMONG_EACH_OTHER, rule=RULES)
def test_a_device_gives_the_same(name, rule, monkeypatch):
    """Classes of several sizes, with a row that has no positive."""
    if refused(name, rule["name"]):
        return
    labels = torch.tensor([0, 0, 0, 1, 1, 2, 3, 3, 3, 3, 3, 4, 4])
    found = []
    for devices in (("cpu",), ()):
        monkeypatch.setattr(stable, "AT_ONCE", devices)
        x = X[: len(labels)].double().requires_grad_()
        torch.manual_seed(0)
        value = create(name, mining=rule)(x, labels)
        found.append([value, *torch.autograd.grad(value, x)])
    torch.testing.assert_close(found[0], found[1], rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", ["contrastive", "multi_similarity", "supcon", "triplet"])
@pytest.mark.parametrize("rule", [None, "hard", "multi_similarity", "semi_hard"])
@pytest.mark.parametrize("sizes", ["equal", "unequal"])
def test_tiles_bring_the_labels_once(name, rule, sizes, monkeypatch):
    """On the CPU there is nothing to wait for; of a device the labels are asked for."""
    rows, labels = X.repeat(5, 1), torch.arange(5 * N) // 4
    labels = labels if sizes == "equal" else labels.sqrt().long()
    values = []

    def call(loss: nearfar.losses.Loss, x: Tensor) -> Tensor:
        values.append(loss(rows * x.sum(), labels))
        return values[-1]

    assert waits(create(name, mining=rule, backend="tiled"), call) == []
    with monkeypatch.context() as patch:
        brought = []
        once = relation._brought
        patch.setattr(stable, "AT_ONCE", ())
        patch.setattr(relation, "_brought", lambda *given: brought.append(given) or once(*given))
        waits(create(name, mining=rule, backend="tiled"), call, on_a_device=True)
    assert len(brought) == 2, "once for each call"
    torch.testing.assert_close(values[0], values[2], rtol=1e-6, atol=1e-7)

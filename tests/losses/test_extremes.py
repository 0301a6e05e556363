"""Single precision at its ends: tiny and huge embeddings, sharp softmaxes, nothing to compare; and exact zeros.

``test_edges`` has the same in double precision with the unmined losses and three rules.
"""

from math import log
from typing import get_args
from zlib import crc32

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

import nearfar
from nearfar.errors import NearfarError
from nearfar.inputs import Labels
from nearfar.similarity import Measure, Relevance
from problems import PAIR_LOSSES, TRIPLET_LOSSES, TWO_SIDED_LOSSES, batch
from turns import in_turns

pytestmark = pytest.mark.filterwarnings("ignore:this batch has no positive pair")

EVERY_LOSS = PAIR_LOSSES + TRIPLET_LOSSES + TWO_SIDED_LOSSES
MEASURES = get_args(Measure)
MARGINS = {"contrastive": {"positive_margin": 0.9, "negative_margin": 0.5}}
RULES = [
    None,
    {"name": "easy"},
    {"name": "easy_positive"},
    {"name": "hard"},
    {"name": "interval", "above": -1.0, "positives_below": 0.9},
    {"name": "multi_similarity"},
    {"name": "relative", "positive_method": "hard", "negative_over": "batch"},
    {"name": "relative", "positive_method": "relative_easy", "negative_method": "easy", "keep_positives": 1},
    {"name": "semi_hard"},
    {"name": "semi_hard", "otherwise": "farthest"},
    {"name": "top_k", "keep_negatives": 3},
    {"name": "distance_weighted", "seed": 3},
    {"name": "random", "keep_positives": 1, "seed": 3},
]
# Their anchors push negatives away whether they have positives or not.
PUSHING = [
    "binomial_deviance",
    "contrastive",
    "margin",
    "multi_similarity",
    "ranked_list",
    "siglip",
    "snr_contrastive",
]
SHARP = {
    "angular": {"alpha": 82.0},  # 4 tan² α = 202
    "binomial_deviance": {"alpha": 200.0, "beta": 200.0},
    "circle": {"temperature": 0.005},
    "clip": {"log_scale": log(200)},
    "lifted_structure_generalized": {"alpha": 200.0, "beta": 200.0},
    "multi_similarity": {"alpha": 200.0, "beta": 200.0},
    "nca": {"temperature": 0.005},
    "ntxent": {"temperature": 0.005},
    "ranked_list": {"sharpness": 200.0, "positive_sharpness": 200.0},
    "siglip": {"log_scale": log(200), "bias": -100.0},
    "supcon": {"temperature": 0.005},
    "tuplet_margin": {"temperature": 0.005},
}
ONE_SIDED = PAIR_LOSSES + TRIPLET_LOSSES
BOTH = ["dense", "tiled"]
both_backends = pytest.mark.parametrize("backend", BOTH)


def finite(
    name: str, backend: str, x: Tensor, labels: Labels, *candidates: Tensor, **create
) -> tuple[Tensor, Tensor] | None:
    """Value and gradient, checked; None where the loss is not for this measure, these labels or this rule."""
    x = x.clone().requires_grad_()
    loss = nearfar.losses.create(name, backend=backend, **create)
    try:
        value = loss(x, labels, *candidates)
    except NearfarError:
        return None
    grad, *learned = torch.autograd.grad(value.sum(), [x, *loss.learned.values()], materialize_grads=True)
    told = f"{name} {backend} {create}"
    assert value.isfinite().all(), told
    assert grad.isfinite().all(), told
    assert all(g.isfinite().all() for g in learned), told
    return value.detach(), grad


def turns(*about: object, share: int = 6) -> list[tuple[dict | None, Measure]]:
    """A share of the rules, each with a measure; others for another loss or batch, all in the end."""
    first = crc32(str(about).encode())
    every = [(rule, MEASURES[(first + place) % len(MEASURES)]) for place, rule in enumerate(RULES)]
    return every[first % share :: share]


def as_defined(name: str, backend: str, x: Tensor, labels: Labels, tolerance: float, **create) -> None:
    """What float32 gives is what the definition gives in float64, or both refuse."""
    found = finite(name, backend, x, labels, **create)
    exact = finite(name, "reference", x.double(), labels, **create)
    if found is None or exact is None:
        assert found is exact
        return
    torch.testing.assert_close(found[0].double(), exact[0], rtol=tolerance, atol=1e-6)
    # What has all but vanished has few digits: float32 knows a sigmoid near 1 to 6e-8.
    size = exact[1].abs().max().clamp_min(1e-6).item()
    torch.testing.assert_close(found[1].double(), exact[1], rtol=1e-3, atol=1e-3 * size)


def alike() -> dict[str, tuple[Tensor, Labels]]:
    x, labels = batch(4, 3, 6)
    x = x.float()
    one, half, nought = x[:1].expand(12, 6), x.clone(), x.clone()
    half[labels == 1] = half[labels == 0]
    nought[labels == 1] = 0
    tags = torch.nn.functional.one_hot(labels)
    tags[:2] = 1
    return {
        "one vector": (one, labels),
        "one vector, one class": (one, torch.zeros_like(labels)),
        "two classes with the same vectors": (half, labels),
        "a class of zeros": (nought, labels),
        "zeros": (torch.zeros_like(x), labels),
        "opposite vectors": (x[:1] * torch.tensor([1.0, -1.0]).repeat(6)[:, None], labels),
        "one vector, tags": (one, tags),
    }


@in_turns(2, name=EVERY_LOSS, backend=BOTH)
def test_alike(name, backend):
    for what, (x, labels) in alike().items():
        for rule, measure in turns(name, what, share=13):
            finite(name, backend, x, labels, mining=rule, similarity=measure, **MARGINS.get(name, {}))


@in_turns(2, name=EVERY_LOSS, backend=BOTH, scale=[1e-4, 1e3])
def test_tiny_and_huge(name, backend, scale):
    """Finite with any rule; without one, as the definition has it in float64."""
    x, labels = batch(3, 3, 6, spread=0.8)
    x = (scale * x).float()
    for measure in ("dot", "euclidean"):
        as_defined(name, backend, x, labels, 1e-4, similarity=measure, **MARGINS.get(name, {}))
    for rule, measure in turns(name, scale):
        finite(name, backend, x, labels, mining=rule, similarity=measure, **MARGINS.get(name, {}))


@in_turns(2, name=[*SHARP], backend=BOTH, spread=[0.05, 0.8])
def test_sharp(name, backend, spread):
    """Scales of 200, tight classes and loose ones, and classes with a stranger; float32 rounds s times 200."""
    x, labels = batch(4, 3, 6, spread=spread)
    x = x.float()
    for other in (labels, labels.roll(1)):
        for measure in ("cosine", "euclidean"):
            as_defined(name, backend, x, other, 2e-4, similarity=measure, **SHARP[name])
        for rule, measure in turns(name, spread):
            finite(name, backend, x, other, mining=rule, similarity=measure, **SHARP[name])


@in_turns(2, name=[*SHARP], backend=BOTH)
def test_sharp_and_alike(name, backend):
    for x, labels in alike().values():
        for measure in ("cosine", "euclidean"):
            finite(name, backend, x, labels, similarity=measure, **SHARP[name])


@in_turns(2, name=EVERY_LOSS, backend=BOTH, kind=["classes", "tags", "listed"])
def test_few_rows(name, backend, kind):
    """None, one or two rows, of one class, of two or of none; without any the loss is a 0 to learn from."""
    for n in (0, 1, 2):
        x = batch(2, 1, 5)[0][:n].float()
        several = {
            "classes": [torch.zeros(n, dtype=torch.long), torch.arange(n)],
            "tags": [torch.zeros(n, 3), torch.ones(n, 3)],
            "listed": [Relevance(torch.zeros(min(n, 1) * k, 2, dtype=torch.long)) for k in (0, 1)]
            + [Relevance(torch.tensor([[0, 1]])[: n // 2])],
        }[kind]
        for labels in several:
            for rule, measure in turns(name, n, kind, share=13):
                create = {"mining": rule, "similarity": measure, **MARGINS.get(name, {})}
                found = finite(name, backend, x, labels, **create)
                if n < 2 and found is not None:
                    assert found[0] == 0
                    assert not found[1].any()


@pytest.mark.parametrize(("n", "m"), [(0, 3), (0, 0), (3, 0)])
@in_turns(2, name=EVERY_LOSS, backend=BOTH)
def test_few_candidates(name, backend, n, m):
    """No anchors or no candidates, such as a memory before the first step."""
    rules = [rule for rule, _ in turns(name, backend)] if m else [None, "multi_similarity"]
    nothing_to_compare(name, backend, n, m, rules)


@both_backends
def test_mining_without_candidates(backend):
    for place, name in enumerate(EVERY_LOSS):
        nothing_to_compare(name, backend, 3, 0, RULES[place % 4 :: 4])


def test_no_tags():
    finite("supcon", "tiled", batch(2, 1, 5)[0].float(), torch.zeros(2, 0))


def nothing_to_compare(name: str, backend: str, n: int, m: int, rules: list) -> None:
    x, y = batch(3, 1, 5)[0][:n].float(), batch(3, 1, 5, seed=1)[0][:m].float()
    for rule in rules:
        found = finite(name, backend, x, torch.arange(n), y, torch.arange(m), mining=rule, reduction="none")
        if found is not None:
            assert found[0].shape == (n,)
            assert not found[0].any()
            assert not found[1].any()


def lonely() -> tuple[Tensor, Tensor]:
    """Three tight classes within 90 degrees, and last a row of its own, opposite to them all."""
    towards = torch.tensor([1.0, -1.0, 1.0, -1.0])
    centres = normalize(towards + 0.5 * torch.eye(3, 4), dim=1)
    noise = 0.02 * torch.randn(9, 4, generator=torch.Generator().manual_seed(0))
    near = normalize(centres.repeat_interleave(3, 0) + noise, dim=1)
    alone = -normalize(torch.tensor([[1.0, -1.1, 0.9, -1.0]]), dim=1)
    return torch.cat([near, alone]), torch.tensor([0, 0, 0, 1, 1, 1, 2, 2, 2, 3])


@in_turns(2, name=sorted(set(ONE_SIDED) - set(PUSHING)), backend=BOTH)
def test_an_anchor_without_positives_learns_nothing(name, backend):
    """It is no candidate here, so that nobody else moves it."""
    x, labels = lonely()
    candidates = (x[:9].flip(0), labels[:9].flip(0))
    for rule, _ in turns(name, backend, share=4):
        found = finite(name, backend, x, labels, *candidates, mining=rule, reduction="none")
        if found is not None:
            value, grad = found
            assert value[9] == 0
            assert not grad[9].any(), rule


@in_turns(2, name=sorted(set(EVERY_LOSS) - set(PUSHING)), backend=BOTH, measure=["cosine", "euclidean"])
def test_a_negative_that_mining_leaves_out_is_not_moved(name, backend, measure):
    """Without positives, and nobody's nearest negative."""
    x, labels = lonely()
    for rule in (
        "hard",
        "easy_positive",
        "multi_similarity",
        {"name": "relative", "keep_negatives": 2},
        {"name": "top_k", "keep_negatives": 3},
        {"name": "interval", "above": 0.0 if measure == "cosine" else -1.4},
    ):
        found = finite(name, backend, x, labels, mining=rule, similarity=measure, reduction="none")
        if found is not None:
            value, grad = found
            assert value[9] == 0
            assert not grad[9].any(), rule


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("contrastive", {}),
        ("contrastive", {"squared": True, "balance": "batch"}),
        ("margin", {}),
        ("margin", {"per": "triplet"}),
        ("quadruplet", {}),
        ("rank_hard", {}),
        ("ranked_list", {}),
        ("snr_contrastive", {}),
        ("triplet", {}),
        ("triplet", {"margin": 0.5}),
    ],
)
@both_backends
def test_a_negative_beyond_every_margin_is_not_moved(name, settings, backend):
    """Losses with hinges, all pairs; those with softmaxes move everything a little."""
    x, labels = lonely()
    value, grad = finite(name, backend, x, labels, reduction="none", **settings)
    assert value[9] == 0
    assert not grad[9].any()
    assert grad[:9].any()

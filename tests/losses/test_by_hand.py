"""Each pair loss on three vectors, worked out by hand."""

import math
from math import exp, log, log1p, sqrt

import pytest
import torch

import nearfar


def hand() -> tuple[torch.Tensor, torch.Tensor]:
    """Three unit vectors at 0, 60 and 90 degrees; the first two are one class.

    s_01 = 1/2, s_02 = 0, s_12 = cos 30 = √3/2.
    """
    angle = torch.tensor([0.0, 60.0, 90.0], dtype=torch.float64) * math.pi / 180
    return torch.stack([angle.cos(), angle.sin()], 1), torch.tensor([0, 0, 1])


def test_contrastive_by_hand():
    loss = nearfar.losses.create("contrastive", reduction="none")
    # 0: 1 - 1/2, and s_02 = 0 is under 1/2.  1: 1/2 and √3/2 - 1/2.  2: √3/2 - 1/2.
    expected = [0.5, math.sqrt(3) / 2, math.sqrt(3) / 2 - 0.5]
    assert loss(*hand()).tolist() == pytest.approx(expected)


def test_contrastive_whole_by_hand():
    loss = nearfar.losses.create("contrastive", whole=True, reduction="none")
    assert loss(*hand()).tolist() == pytest.approx([0.5, 0.5 + math.sqrt(3) / 2, math.sqrt(3) / 2])


def test_contrastive_squared_by_hand():
    # Hadsell on the plane: D_01 = 1, D_02 = √2, D_12 = 2 sin 15°; margin 1.
    loss = nearfar.losses.create("contrastive", squared=True, similarity="euclidean", reduction="none")
    push = 0.5 * (1 - 2 * math.sin(math.pi / 12)) ** 2
    assert loss(*hand()).tolist() == pytest.approx([0.5, 0.5 + push, push])


def test_triplet_by_hand():
    # Anchor 0: 0 - 1/2 + 1/5 < 0.  Anchor 1: √3/2 - 1/2 + 1/5.  One of two triplets is active.
    value = math.sqrt(3) / 2 - 0.3
    assert nearfar.losses.create("triplet")(*hand()).item() == pytest.approx(value)
    assert nearfar.losses.create("triplet", reduction="mean_terms")(*hand()).item() == pytest.approx(
        value / 2
    )
    assert nearfar.losses.create("triplet", mining="hard")(*hand()).item() == pytest.approx(value / 2)


def test_triplet_soft_by_hand():
    loss = nearfar.losses.create("triplet", soft=True, margin=0.0, reduction="none")
    expected = [math.log1p(math.exp(-0.5)), math.log1p(math.exp(math.sqrt(3) / 2 - 0.5)), 0.0]
    assert loss(*hand()).tolist() == pytest.approx(expected)


def test_supcon_by_hand():
    loss = nearfar.losses.create("supcon", temperature=1.0, reduction="none")
    expected = [math.log1p(math.exp(-0.5)), math.log1p(math.exp(math.sqrt(3) / 2 - 0.5)), 0.0]
    assert loss(*hand()).tolist() == pytest.approx(expected)


def test_multi_similarity_by_hand():
    loss = nearfar.losses.create("multi_similarity", alpha=1.0, beta=1.0, base=0.5, reduction="none")
    push = math.log1p(math.exp(math.sqrt(3) / 2 - 0.5))
    lone = math.log1p(math.exp(-0.5) + math.exp(math.sqrt(3) / 2 - 0.5))
    assert loss(*hand()).tolist() == pytest.approx(
        [math.log(2) + math.log1p(math.exp(-0.5)), math.log(2) + push, lone]
    )


R = sqrt(3) / 2
D = 2 * math.sin(math.pi / 12)  # the distance of rows 1 and 2; D_01 = 1, D_02 = √2


@pytest.mark.parametrize(
    ("name", "settings", "expected"),
    [
        ("contrastive", {"balance": "anchor"}, [0.5, R, (R - 0.5) / 2]),
        (
            "binomial_deviance",
            {"beta": 4.0},
            [
                log(2) + log1p(exp(-2)),
                log(2) + log1p(exp(4 * R - 2)),
                (log1p(exp(-2)) + log1p(exp(4 * R - 2))) / 2,
            ],
        ),
        # The positive lies on its boundary: 1 · (1/2 - 1/2). Negatives: (0 + m)(0 - m) and R² - m².
        ("circle", {"margin": 0.5, "temperature": 1.0}, [log1p(exp(-0.25)), log1p(exp(0.5)), 0]),
        ("nca", {"temperature": 1.0}, [log1p(exp(-0.5)), log1p(exp(R - 0.5)), 0]),
        ("nca", {"temperature": 1.0, "neighbours": 1}, [0, log1p(exp(R - 0.5)), 0]),
        ("nca", {"temperature": 1.0, "inverted": True}, [log1p(exp(0.5)), log1p(exp(0.5 - R)), 0]),
        ("npair", {}, [log1p(exp(-0.5)), log1p(exp(R - 0.5)), 0]),
        (
            "npair",
            {"l2": 0.4, "similarity": "dot"},
            [0.2 + log1p(exp(-0.5)), 0.2 + log1p(exp(R - 0.5)), 0],
        ),
        ("npair_ovo", {}, [log1p(exp(-0.5)), log1p(exp(R - 0.5)), 0]),
        ("npair_mined", {}, [log1p(exp(-0.5)), log1p(exp(R - 0.5)), 0]),
        ("ntxent", {"temperature": 0.5}, [log1p(exp(-1)), log1p(exp(2 * R - 1)), 0]),
        # A slack as wide as the positive's angle turns it onto its anchor.
        (
            "tuplet_margin",
            {"margin": math.pi / 3, "temperature": 1.0},
            [log1p(exp(-1)), log1p(exp(R - 1)), 0],
        ),
        (
            "lifted_structure",
            {},
            [(1 + log(exp(1 - sqrt(2)) + exp(1 - D))) ** 2 / 2] * 2 + [0],
        ),
        ("lifted_structure_generalized", {}, [2 - sqrt(2), 2 - D, 0]),
        (
            "lifted_structure_generalized",
            {"variant": "smooth", "similarity": "dot", "alpha": 2.0, "beta": 3.0},
            [-1, 2 * R - 1, 0],
        ),
        ("ranked_list", {}, [0.1, 0.1 + (1.2 - D) / 2, (1.2 - D) / 2]),
        # On the plane what is left without the mean is one number: 1, 1/2 - R and -1, over √2.
        (
            "snr_contrastive",
            {"negative_margin": 5.0},
            [(0.5 + R) ** 2 + 1, (2 + sqrt(3)) ** 2 + 2, 1 + 5 - (1.5 - R) ** 2],
        ),
        (
            "siglip",
            {"log_scale": 0.0, "bias": 0.0},
            [log1p(exp(-0.5)) + log(2), log1p(exp(-0.5)) + log1p(exp(R)), log(2) + log1p(exp(R))],
        ),
        ("clip", {"log_scale": 0.0}, [(log1p(exp(-0.5)) + log1p(exp(R - 0.5))) / 2] * 2 + [0]),
    ],
)
def test_by_hand(name, settings, expected):
    loss = nearfar.losses.create(name, reduction="none", **settings)
    assert loss(*hand()).tolist() == pytest.approx(expected, rel=1e-9, abs=1e-12)

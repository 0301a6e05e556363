"""Numbers of numpy and torch are numbers; what is none, or can only be a mistake, is refused at ``create``."""

import inspect
import math

import numpy as np
import pytest
import torch

import nearfar
from nearfar import mining
from nearfar.errors import NearfarError
from nearfar.losses import Sum
from nearfar.losses.parts.registry import has_proxies, registry

NONSENSE = [
    math.nan,
    math.inf,
    -math.inf,
    10**400,
    -(10**400),
    10**5000,
    1e300,
    True,
    np.True_,
    "x",
    "x" * 10_000,
    1j,
    [1.0],
    {},
    np.float32("nan"),
    np.float64("inf"),
    torch.tensor(math.inf),
    torch.tensor(math.nan),
    torch.tensor(True),
    torch.tensor([0.5, 0.5]),
    np.array([1.0]),
    object(),
]


def own(name: str) -> dict:
    return {"classes": 5, "dim": 4} if has_proxies(name) else {}


def numeric(signature: inspect.Signature) -> list[str]:
    """Settings that are numbers, lists of numbers or none."""
    words = ("Literal", "bool")
    return [k for k, p in signature.parameters.items() if not any(w in str(p.annotation) for w in words)]


def refused(make, **given) -> str:
    with pytest.raises(NearfarError) as error:
        make(**given)
    sentence = str(error.value)
    assert "\n" not in sentence
    assert len(sentence) < 700, sentence  # the longest lists all losses
    return sentence


SETTINGS = [(name, key) for name in registry.names() for key in numeric(registry.settings(name))]


@pytest.mark.parametrize(("name", "key"), SETTINGS)
def test_nonsense_is_refused_as_every_setting_of_every_loss(name, key):
    for value in NONSENSE:
        for learn in (True, False):
            sentence = refused(nearfar.losses.create, name=name, **own(name), learn=learn, **{key: value})
            assert key in sentence, sentence


RULES = [(name, key) for name in mining.names() for key in numeric(mining.settings(name))]


@pytest.mark.parametrize(("name", "key"), RULES)
def test_nonsense_is_refused_as_every_setting_of_every_rule(name, key):
    for value in NONSENSE:
        given = {"name": name, key: value}
        assert key in refused(mining.create, mining=given)
        assert key in refused(nearfar.losses.create, name="triplet", mining=given)


@pytest.mark.parametrize("key", ["size", "start_after", "dim", "weight"])
def test_nonsense_is_refused_by_a_memory(key):
    for value in NONSENSE:
        assert key in refused(nearfar.CrossBatchMemory, **{"size": 8, "combine": "sum", key: value})


@pytest.mark.parametrize("key", ["tilt", "sample", "classes", "dim", "across_ranks", "learn", "sharded"])
def test_nonsense_is_refused_by_create(key):
    for value in NONSENSE:
        if isinstance(value, bool) and key in ("across_ranks", "learn", "sharded"):
            continue
        given = {"name": "arcface", "classes": 5, "dim": 4, key: value}
        assert key in refused(nearfar.losses.create, **{**given, "reduction": "tilted"})
    for given in ({"name": 5}, {"name": ["triplet"]}, {"similarity": []}, {"reduction": np.zeros(2)}):
        refused(nearfar.losses.create, **{"name": "triplet", **given})
    for weights in ([math.inf, 1.0], {0: math.nan}, {0.5: 1.0}, {0: -1}, {0: 10**400}, ["x", "y"]):
        refused(nearfar.losses.create, name="supcon", class_weights=weights)


def test_nonsense_is_refused_as_the_weight_of_a_sum():
    for value in NONSENSE:
        refused(Sum, losses={"triplet": value})
    refused(Sum, losses=[1, 2])


@pytest.mark.parametrize(
    ("name", "settings", "sentence"),
    [
        ("cosface", {"margin": -1}, "margin is a gap between cosines, from 0 to 2; got -1"),
        ("cosface", {"margin": 2.5}, "from 0 to 2"),
        ("supcon", {"temperature": 0}, "temperature must be positive; got 0"),
        ("supcon", {"temperature": 1e-300}, "temperature must lie between 1e-09 and 1e"),
        ("triplet", {"margin": -0.1}, "margin must not be negative"),
        ("quadruplet", {"margin": -0.1}, "margin must not be negative"),
        ("lifted_structure", {"margin": -5}, "margin must not be negative"),
        ("soft_triple", {"margin": -1}, "margin must not be negative"),
        ("soft_triple", {"centres": -1}, "centres of soft_triple must be at least 1"),
        ("soft_triple", {"centres": 10**9}, "centres of soft_triple must be at least 1, and at most"),
        ("circle", {"margin": -1}, "margin must be above -1"),
        ("margin", {"beta": -1.0}, "beta must not be negative"),
        ("sphereface", {"margin": 10**9}, "margin must be a whole number of at least 1, and at most 64"),
        ("histogram", {"bins": 10**12}, "bins must be at most"),
        ("recall_at_k", {"ks": [0]}, "ks must be whole numbers from 1 on"),
        ("recall_at_k", {"ks": []}, "ks must be whole numbers from 1 on"),
        ("siglip", {"log_scale": 800.0}, "log_scale is the logarithm of a scale"),
        ("contrastive", {"squared": True, "whole": True}, "set squared=False"),
        ("triplet", {"mining": {"name": "top_k", "keep_negatives": 0}}, "top_k keeps 1 or more"),
        ("triplet", {"mining": {"name": "distance_weighted", "nearest": 2.0}}, "0 < nearest < farthest"),
        ("triplet", {"mining": {"name": "interval"}}, "interval needs a bound"),
        ("triplet", {"mining": {"name": "semi_hard", "margin": 0}}, "semi_hard needs a positive margin"),
        ("arcface", {"dim": 10**15}, "dim must be the dimension of the embeddings"),
        ("arcface", {"classes": 10**15}, "arcface was asked for 1000000000000000 classes"),
        ("arcface", {"classes": 10**7, "dim": 2**20}, "no machine holds"),
        ("arcface", {"classes": torch.tensor([0.0, 1.0])}, "must be labels"),
    ],
)
def test_settings_out_of_range_are_refused_when_a_loss_is_created(name, settings, sentence):
    assert sentence in refused(nearfar.losses.create, name=name, **{**own(name), **settings})


KINDS = {
    "whole": [np.int64, np.uint8, torch.tensor, np.array],
    "real": [np.float64, np.float32, torch.tensor, np.array],
}


def test_numbers_are_numbers_whoever_made_them():
    for name in registry.names():
        for key, parameter in registry.settings(name).parameters.items():
            value = parameter.default
            if key not in numeric(registry.settings(name)) or value is None:
                continue
            if isinstance(value, tuple):
                for given in (np.array(value), torch.tensor(value), [np.int64(k) for k in value]):
                    found = nearfar.losses.create(name, **own(name), **{key: given}).settings[key]
                    assert found == value
                continue
            for kind in KINDS["whole" if isinstance(value, int) else "real"]:
                found = nearfar.losses.create(name, **own(name), **{key: kind(value)}).settings[key]
                assert type(found) is type(value), (name, key)
                assert found == pytest.approx(value)
    rule = mining.create({"name": "top_k", "keep_negatives": np.int64(3), "keep_positives": torch.tensor(2)})
    assert repr(rule) == "top_k(keep_negatives=3, keep_positives=2)"
    assert mining.create({"name": "semi_hard", "margin": np.float32(0.5)}).settings["margin"] == 0.5


def test_counts_are_counts_whoever_made_them():
    y = np.arange(12) // 3
    for classes, dim in [
        (y.max() + 1, np.int32(8)),
        (torch.tensor(4), torch.tensor(8)),
        (y, 8),
        (list(y), 8),
    ]:
        loss = nearfar.losses.create("arcface", classes=classes, dim=dim)
        assert loss.proxies.shape == (4, 8)
    memory = nearfar.CrossBatchMemory(np.int64(64), start_after=torch.tensor(1), dim=np.int16(8))
    assert repr(memory) == "CrossBatchMemory(size=64, start_after=1, combine='together', filled=0)"
    memory = nearfar.CrossBatchMemory(8, combine="sum", weight=np.float32(0.5))
    assert memory.weight == 0.5
    both = Sum({"triplet": np.float32(0.5), "supcon": torch.tensor(2)})
    assert both.weights == {"triplet": 0.5, "supcon": 2.0}
    loss = nearfar.losses.create("supcon", reduction="tilted", tilt=np.float64(2))
    assert loss.tilt == 2
    assert nearfar.losses.create("arcface", classes=4, dim=8, sample=np.float32(0.5)).sample == 0.5
    weights = {np.int64(1): np.float32(2)}
    assert nearfar.losses.create("supcon", class_weights=weights).class_weights.labels.tolist() == [1]


def test_more_than_there_are_keeps_all():
    x, labels = torch.randn(12, 4), torch.arange(12) // 3
    for name, rule in [("triplet", "top_k"), ("triplet", "random")]:
        values = [
            nearfar.losses.create(
                name, mining={"name": rule, "keep_negatives": k, "keep_positives": k}, backend=backend
            )(x, labels)
            for backend in ("dense", "tiled")
            for k in (12, 10**9, 2**62)
        ]
        torch.testing.assert_close(values, [values[0]] * len(values))
    for name, key in [("nca", "neighbours"), ("rank_hard", "negatives")]:
        few, many = (
            nearfar.losses.create(name, reduction="sum", **{key: k})(x, labels) for k in (12, 10**12)
        )
        torch.testing.assert_close(few, many)


def test_a_formula_of_ones_own_is_not_looked_at():
    """Its settings are checked when it checks them before it looks at the pairs, and else when it is called."""

    def own_formula(pairs, *, power: float = 1.0):
        s = pairs.positives.similarity
        if power < 0:
            raise NearfarError("too late")
        return pairs.per_anchor(s**power, "sum")

    nearfar.losses.register_loss(own_formula)
    try:
        assert nearfar.losses.create("own_formula", power=-1.0).settings == {"power": -1.0}
    finally:
        registry._entries.pop("own_formula")
        registry._functions.pop("own_formula")

"""Which classes meet in a batch: balanced, hierarchical, by name, and what the originals intended."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nearfar.data import PKSampler, create_sampler
from nearfar.data.samplers import describe, names
from nearfar.data.samplers.balanced import chances, draw
from nearfar.errors import CheckpointError, DataError, NearfarError

GOLDEN = sorted((Path(__file__).parent.parent / "golden/losses/samplers").glob("*.json"))
RULES = {
    "pk": {},
    "balanced by class": {"by": "class"},
    "balanced by instance": {"by": "instance"},
    "hard_classes": {},
}


def make(rule: str, labels, p: int, k: int, seed: int = 0):
    return create_sampler(rule.split(maxsplit=1)[0], labels, p, k, seed, **RULES[rule])


def classes_differ(batch, labels, p: int, k: int) -> bool:
    """P different classes with K places each, side by side."""
    classes = labels[np.array(batch).reshape(p, k)]
    return bool((classes == classes[:, :1]).all()) and len(set(classes[:, 0])) == p


def is_p_by_k(batch, labels, p: int, k: int) -> bool:
    """And no image twice but in a class that has fewer than K, and there as evenly as can be."""
    most = [np.unique(hand, return_counts=True)[1].max() for hand in np.array(batch).reshape(p, k)]
    sizes = [(labels == labels[hand[0]]).sum() for hand in np.array(batch).reshape(p, k)]
    return classes_differ(batch, labels, p, k) and most == [-(-k // min(k, size)) for size in sizes]


def original(path: Path):
    """Labels, P, K and the batches that the original drew."""
    case = json.loads(path.read_text())
    k = case.get("num_instances") or case["img_num_per_identity"]
    if "epochs" in case:
        return case, len(case["epochs"][0]) // k, k, case["epochs"]
    p = case.get("identity_num_per_batch") or case["batch_size"] // k
    drawn = case.get("batches")
    if drawn is None:
        drawn = np.array(case["stream"]).reshape(-1, p * k).tolist()
    return case, p, k, drawn


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.stem)
def test_our_batches_are_what_the_originals_were_meant_to_be(path, rule):
    case, p, k, _ = original(path)
    labels = np.array(case["labels"])
    sampler = make(rule, labels, p, k)
    for epoch in range(2):
        sampler.set_epoch(epoch)
        batches = list(sampler)
        assert len(batches) == len(sampler)
        assert all(is_p_by_k(batch, labels, p, k) for batch in batches)
    if rule == "pk":
        assert set(np.concatenate(batches)) == set(range(len(labels)))


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.stem)
def test_which_originals_are(path):
    """The Caffe layer draws classes with replacement; the others keep them apart, and repeat some images."""
    case, p, k, drawn = original(path)
    labels = np.array(case["labels"])
    kept = all(classes_differ(batch, labels, p, k) for batch in drawn)
    assert kept != case["sampler"].startswith("MultibatchData")


@pytest.mark.parametrize("by", ["class", "instance"])
@pytest.mark.parametrize("sizes", [[1, 2, 5, 12, 30], [4] * 6, [2, 2, 2, 50], [3, 90, 90, 3, 4, 4, 4]])
def test_classes_come_as_often_as_they_should(by, sizes):
    labels = np.repeat(np.arange(len(sizes)), sizes)
    p = 2
    sampler = create_sampler("balanced", labels, p, 2, 5, by=by)
    count, batches = np.zeros(len(sizes)), 0
    while batches < 3000:
        sampler.set_epoch(sampler.place.epoch + 1)
        for batch in sampler:
            count[np.unique(labels[batch])] += 1
            batches += 1
    weight = np.ones(len(sizes)) if by == "class" else np.array(sizes, dtype=float)
    expected = cut_off(weight, p)
    spread = np.sqrt(expected * (1 - expected) / batches)
    assert (np.abs(count / batches - expected) <= 4.5 * spread + 1e-12).all()


def cut_off(weight: np.ndarray, places: int) -> np.ndarray:
    """min(1, λw) with λ found by halving so that the chances add up to the places."""
    low, high = 0.0, places / weight.min()
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if np.minimum(1, middle * weight).sum() < places else (low, middle)
    return np.minimum(1, high * weight)


@given(st.lists(st.integers(1, 200), min_size=2, max_size=12), st.data())
@settings(deadline=None)
def test_chances_and_draws(weight, data):
    weight = np.array(weight, dtype=float)
    places = data.draw(st.integers(2, len(weight)))
    chance = chances(weight, places)
    np.testing.assert_allclose(chance, cut_off(weight, places), atol=1e-7)
    random = np.random.default_rng(data.draw(st.integers(0, 9)))
    drawn = draw(chance, random)
    assert len(set(drawn.tolist())) == places
    assert set(np.flatnonzero(chance == 1)) <= set(drawn.tolist())


def test_by_instance_every_image_is_equally_likely():
    labels = np.repeat(np.arange(4), [4, 8, 12, 16])
    sampler = create_sampler("balanced", labels, 2, 4, by="instance")
    shown = np.zeros(len(labels))
    for epoch in range(600):
        sampler.set_epoch(epoch)
        np.add.at(shown, np.concatenate(list(sampler)), 1)
    assert shown.max() / shown.min() < 1.2


@st.composite
def families(draw: st.DrawFn):
    parents = draw(st.integers(1, 4))
    share = draw(st.integers(1, 3))
    per_batch = draw(st.integers(1, parents))
    children = [draw(st.integers(share, 5)) for _ in range(parents)]
    kind = np.repeat(np.arange(parents), children)
    sizes = draw(st.lists(st.integers(1, 9), min_size=len(kind), max_size=len(kind)))
    if len(kind) < 2 or share * per_batch < 2:
        share, per_batch, kind, sizes = 1, 2, np.array([0, 1]), [3, 5]
    return np.repeat(np.arange(len(kind)), sizes), kind, per_batch, share


@given(families(), st.integers(0, 3))
@settings(deadline=None)
def test_hierarchical_batches(family, seed):
    labels, kind, per_batch, share = family
    k = 2
    sampler = create_sampler(
        "hierarchical",
        labels,
        per_batch * share,
        k,
        seed,
        super_classes=kind[labels],
        super_classes_per_batch=per_batch,
    )
    batches = list(sampler)
    for batch in batches:
        assert is_p_by_k(batch, labels, per_batch * share, k)
        parents = kind[labels[np.array(batch)]].reshape(per_batch, -1)
        assert (parents == parents[:, :1]).all()
        assert len(set(parents[:, 0])) == per_batch
    assert set(np.concatenate(batches)) == set(range(len(labels)))


def test_super_classes_in_every_form():
    labels = np.repeat([7, 8, 9, 10], 3)
    column = np.repeat(["a", "a", "b", "b"], 3)
    mapping = {7: "a", 8: "a", 9: "b", 10: "b"}
    by_column = create_sampler("hierarchical", labels, 2, 2, super_classes="kind", columns={"kind": column})
    by_mapping = create_sampler("hierarchical", labels, 2, 2, super_classes=mapping)
    assert list(by_column) == list(by_mapping)
    with pytest.raises(DataError, match=r"names the column 'kin', .* Did you mean 'kind'\?"):
        create_sampler("hierarchical", labels, 2, 2, super_classes="kin", columns={"kind": column})
    with pytest.raises(DataError, match="no entry for class 10"):
        create_sampler("hierarchical", labels, 2, 2, super_classes={7: 0, 8: 0, 9: 1})
    with pytest.raises(DataError, match="class 7 lies in two super-classes, a and b"):
        create_sampler("hierarchical", labels, 2, 2, super_classes=np.roll(column, 7))
    with pytest.raises(DataError, match=r"shape \[4\] but there are 12 images"):
        create_sampler("hierarchical", labels, 2, 2, super_classes=["a", "a", "b", "b"])
    with pytest.raises(DataError, match="super_classes_per_batch = 3 but there are 2"):
        create_sampler("hierarchical", labels, 3, 2, super_classes=mapping, super_classes_per_batch=3)
    with pytest.raises(DataError, match="classes_per_batch = 3 cannot be shared evenly"):
        create_sampler("hierarchical", labels, 3, 2, super_classes=mapping)
    with pytest.raises(DataError, match="super-class b has 1 classes but a batch takes 2"):
        create_sampler("hierarchical", labels[:9], 2, 2, super_classes=mapping, super_classes_per_batch=1)


@pytest.mark.parametrize("rule", [*RULES, "hierarchical"])
def test_resume_and_seeds(rule):
    labels = np.repeat(np.arange(9), [3, 5, 2, 8, 4, 4, 6, 7, 5])
    extra = {"super_classes": {c: c % 3 for c in range(9)}} if rule == "hierarchical" else RULES[rule]

    def sampler(seed: int = 1):
        return create_sampler(rule.split(maxsplit=1)[0], labels, 4, 2, seed, **extra)

    one = sampler()
    one.set_epoch(2)
    whole = list(one)
    for taken in (0, 1, len(whole) - 1, len(whole)):
        first = sampler()
        first.set_epoch(2)
        running = iter(first)
        assert [next(running) for _ in range(taken)] == whole[:taken]
        # The loader may have read ahead: the place is what was trained on.
        ahead = list(running)
        again = sampler()
        again.load_state_dict(first.state_dict() | {"position": taken})
        again.set_epoch(2)
        assert list(again) == whole[taken:] == ahead
    assert list(sampler(2)) != list(sampler())
    with pytest.raises(CheckpointError, match="made with seed = 2 but this run has 1"):
        sampler().load_state_dict(sampler(2).state_dict())
    if rule != "pk":
        with pytest.raises(CheckpointError, match="made with sampler = "):
            sampler().load_state_dict(PKSampler(labels, 4, 2, seed=1).state_dict())


def test_names_and_settings():
    assert {"pk", "balanced", "hierarchical", "hard_classes"} <= set(names())
    assert "by: Literal['class', 'instance'] = 'class'" in describe("balanced")
    assert str(create_sampler("balanced", [0, 0, 1, 1], 2, 2)) == (
        "PKSampler(balanced by class, 2 classes x 2 images, 1 batches)"
    )
    with pytest.raises(NearfarError, match=r"no sampler named 'balance'. Did you mean 'balanced'\?"):
        create_sampler("balance", [0, 0, 1, 1], 2, 2)
    with pytest.raises(NearfarError, match=r"no setting 'bye'. Did you mean 'by'\?"):
        create_sampler("balanced", [0, 0, 1, 1], 2, 2, bye="class")
    with pytest.raises(NearfarError, match="must be 'class' or 'instance'; got 'images'"):
        create_sampler("balanced", [0, 0, 1, 1], 2, 2, by="images")
    with pytest.raises(NearfarError, match="needs a value for 'super_classes'"):
        create_sampler("hierarchical", [0, 0, 1, 1], 2, 2)

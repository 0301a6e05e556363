"""The block of comparisons: who is a positive, what a reduction gives, what narrowing leaves."""

import pytest
import torch

from nearfar.errors import NearfarError
from nearfar.pairs import Pairs
from nearfar.similarity import (
    ArgMax,
    Count,
    HingeSum,
    LogSumExp,
    Max,
    Min,
    SoftplusSum,
    SquaredHingeSum,
    Sum,
)
from problems import BACKENDS, batch


def listed(pairs: Pairs) -> list[tuple[int, int]]:
    return list(zip(pairs.positives.anchor.tolist(), pairs.positives.candidate.tolist(), strict=True))


def test_positives_within_a_batch():
    pairs = Pairs.within(torch.randn(5, 3), torch.tensor([4, 7, 4, 4, 9]))
    assert listed(pairs) == [(0, 2), (0, 3), (2, 0), (2, 3), (3, 0), (3, 2)]
    assert pairs.positive_count.tolist() == [2, 0, 2, 2, 0]
    assert len(pairs) == 5


def test_positives_between_sets_with_own_columns():
    pairs = Pairs.between(
        torch.randn(3, 2),
        torch.tensor([1, 2, 1]),
        torch.randn(4, 2),
        torch.tensor([1, 1, 2, 3]),
        own=torch.tensor([1, 2, -1]),
    )
    assert listed(pairs) == [(0, 0), (2, 0), (2, 1)]


def test_ids_are_never_compared():
    x, labels = batch(3, 2, 4)
    ids = torch.arange(6)
    candidate_ids = torch.tensor([0, 1, 2, 3, 4, 5, 0])
    everyone, everyones = torch.cat([x, x[:1]]), torch.cat([labels, labels[:1]])
    pairs = Pairs.between(x, labels, everyone, everyones, ids=ids, candidate_ids=candidate_ids)
    assert (0, 6) not in listed(pairs)
    assert (0, 0) not in listed(pairs)
    (count,) = pairs.stream(Count())
    # Row 0 meets neither itself nor its copy; its copy is a negative of the other classes.
    assert count[0] == 4
    assert set(count.tolist()) == {4.0, 5.0}


def test_a_negative_with_the_same_id_is_left_out():
    x = torch.eye(2)
    pairs = Pairs.between(
        x,
        torch.tensor([0, 1]),
        x,
        torch.tensor([1, 0]),
        ids=torch.tensor([5, 6]),
        candidate_ids=torch.tensor([5, 7]),
    )
    (count,) = pairs.stream(Count())
    assert count.tolist() == [0, 1]


@pytest.mark.parametrize("measure", ["cosine", "dot", "euclidean", "squared_euclidean"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_similarity_is_larger_for_nearer(measure, backend):
    x, labels = batch(3, 3, 4)
    x = 2 * x
    pairs = Pairs.within(x, labels, similarity=measure, backend=backend)
    a, b = x[pairs.positives.anchor], x[pairs.positives.candidate]
    expected = {
        "cosine": torch.cosine_similarity(a, b),
        "dot": (a * b).sum(1),
        "euclidean": -(a - b).norm(dim=1),
        "squared_euclidean": -(a - b).square().sum(1),
    }[measure]
    torch.testing.assert_close(pairs.positives.similarity, expected)


@pytest.mark.parametrize("how", ["sum", "max", "min", "logsumexp", "count"])
def test_per_anchor(how):
    pairs = Pairs.within(torch.randn(5, 3), torch.tensor([4, 7, 4, 4, 9]))
    values = torch.tensor([3.0, 1.0, 2.0, 2.0, -5.0, 4.0], dtype=torch.float64, requires_grad=True)
    groups = {0: values[:2], 2: values[2:4], 3: values[4:]}
    reduce = {
        "sum": torch.sum,
        "max": torch.max,
        "min": torch.min,
        "logsumexp": lambda v: torch.logsumexp(v, 0),
        "count": lambda v: v.new_tensor(len(v)),
    }[how]
    empty = {"sum": 0.0, "count": 0.0, "max": -torch.inf, "logsumexp": -torch.inf, "min": torch.inf}[how]
    result = pairs.per_anchor(values, how)
    assert result.tolist() == pytest.approx(
        [reduce(groups[i]).item() if i in groups else empty for i in range(5)]
    )
    if how != "count":
        (grad,) = torch.autograd.grad(result[[0, 2, 3]].sum(), values)
        assert torch.isfinite(grad).all()
        assert grad[:2].sum() == pytest.approx(2.0 if how == "sum" else 1.0)
        if how in ("max", "min"):
            assert grad[2:4].tolist() == [1.0, 0.0]  # equal values: the first takes the gradient


REDUCTIONS = {
    "logsumexp": (
        lambda t, per: LogSumExp(scale=3.0, shift=0.1, per=per),
        lambda s, t: torch.logsumexp(3 * (s - 0.1), 0),
    ),
    "max": (lambda t, per: Max(per=per), lambda s, t: s.max()),
    "max below": (
        lambda t, per: Max(below=t, per=per),
        lambda s, t: s[s < t].max() if (s < t).any() else s.new_tensor(-torch.inf),
    ),
    "min": (lambda t, per: Min(per=per), lambda s, t: s.min()),
    "sum": (lambda t, per: Sum(per=per), lambda s, t: s.sum()),
    "count": (lambda t, per: Count(per=per), lambda s, t: s.new_tensor(len(s))),
    "count above": (lambda t, per: Count(above=t, per=per), lambda s, t: (s > t).sum().to(s)),
    "hinge": (lambda t, per: HingeSum(t, per=per), lambda s, t: (s - t).clamp(min=0).sum()),
    "squared hinge": (
        lambda t, per: SquaredHingeSum(t, per=per),
        lambda s, t: (s - t).clamp(min=0).square().sum(),
    ),
    "softplus": (
        lambda t, per: SoftplusSum(t, 5.0, per=per),
        lambda s, t: torch.log1p(torch.exp(5 * (s - t))).sum() / 5,
    ),
}


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("per", ["anchor", "positive"])
@pytest.mark.parametrize("name", REDUCTIONS)
def test_stream_equals_its_definition(name, per, backend):
    make, define = REDUCTIONS[name]
    x, labels = batch(4, 3, 5, spread=1.0)
    x.requires_grad_()
    pairs = Pairs.within(x, labels, backend=backend)
    rows = range(len(x)) if per == "anchor" else pairs.positives.anchor.tolist()
    threshold = torch.linspace(-0.3, 0.3, len(rows), dtype=torch.float64).requires_grad_()
    (result,) = pairs.stream(make(threshold, per))
    s = torch.nn.functional.normalize(x, dim=1)
    s = s @ s.T
    expected = torch.stack([define(s[i][labels != labels[i]], threshold[k]) for k, i in enumerate(rows)])
    torch.testing.assert_close(result, expected)
    if not expected.requires_grad:
        return
    finite = torch.isfinite(expected)
    ours = torch.autograd.grad(result[finite].sum(), [x, threshold], allow_unused=True, retain_graph=True)
    theirs = torch.autograd.grad(expected[finite].sum(), [x, threshold], allow_unused=True)
    for a, b in zip(ours, theirs, strict=True):
        zero = torch.zeros(())
        torch.testing.assert_close(
            zero if a is None else a,
            zero.expand_as(a) if b is None and a is not None else (zero if b is None else b),
            check_dtype=False,
        )


@pytest.mark.parametrize("backend", BACKENDS)
def test_argmax_is_the_first_of_equals_and_minus_one_of_none(backend):
    x = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 1.0], [0.6, 0.8]])
    pairs = Pairs.within(x, torch.tensor([0, 1, 2, 0]), backend=backend)
    assert pairs.stream(ArgMax())[0].tolist() == [1, 2, 1, 1]
    assert pairs.stream(ArgMax(below=-1.0))[0].tolist() == [-1, -1, -1, -1]


@pytest.mark.parametrize("backend", BACKENDS)
def test_narrow_by_interval_columns_and_partners(backend):
    x, labels = batch(4, 3, 5, spread=1.0)
    pairs = Pairs.within(x, labels, backend=backend)
    s = x @ x.T
    above, below = torch.full((12,), -0.2).double(), torch.full((12,), 0.4).double()
    inside = (s > -0.2) & (s < 0.4) & (labels[:, None] != labels[None, :])
    kept = pairs.narrow(above=above, below=below)
    assert kept.stream(Count())[0].tolist() == inside.sum(1).tolist()
    again = kept.narrow(above=torch.zeros(12).double())
    assert again.stream(Count())[0].tolist() == (inside & (s > 0)).sum(1).tolist()

    nearest = pairs.stream(ArgMax())[0]
    chosen = pairs.narrow(columns=torch.stack([nearest, torch.full_like(nearest, -1)], 1))
    torch.testing.assert_close(chosen.stream(Max())[0], pairs.stream(Max())[0])
    assert chosen.stream(ArgMax())[0].tolist() == nearest.tolist()
    assert chosen.stream(Count(), Count(per="positive"))[1].tolist() == [1.0] * len(pairs.positives.anchor)

    partners = nearest[pairs.positives.anchor]
    triplets = pairs.narrow(partners=partners)
    assert triplets.stream(Count())[0].tolist() == [1.0] * 12  # one distinct partner for each anchor
    limit = pairs.positives.similarity - 0.2
    expected = (s[pairs.positives.anchor, partners] - limit).clamp(min=0)
    torch.testing.assert_close(triplets.stream(HingeSum(limit, per="positive"))[0], expected)


def test_narrow_positives_keeps_partners_beside_them():
    x, labels = batch(3, 3, 5)
    pairs = Pairs.within(x, labels)
    partners = pairs.stream(ArgMax())[0][pairs.positives.anchor]
    keep = torch.arange(len(partners)) % 2 == 0
    narrowed = pairs.narrow(partners=partners).narrow(positives=keep)
    assert narrowed.chosen.columns[:, 0].tolist() == partners[keep].tolist()
    assert len(narrowed.positives.similarity) == int(keep.sum())
    with pytest.raises(NearfarError, match="not both"):
        pairs.narrow(columns=partners[:, None], partners=partners)


def test_euclidean_gradient_at_distance_zero_is_zero():
    x = torch.tensor([[1.0, 2.0], [1.0, 2.0], [3.0, 0.0]], requires_grad=True)
    pairs = Pairs.within(x, torch.tensor([0, 0, 1]), similarity="euclidean")
    assert pairs.positives.similarity.tolist() == [0.0, 0.0]
    (grad,) = torch.autograd.grad(pairs.positives.similarity.sum(), x)
    assert (grad == 0).all()


def test_an_unknown_measure_is_refused():
    with pytest.raises(NearfarError, match=r"similarity 'cosin' is not one of .* Did you mean 'cosine'"):
        Pairs.within(torch.ones(2, 2), torch.tensor([0, 0]), similarity="cosin")


@pytest.mark.parametrize("measure", ["euclidean", "squared_euclidean"])
def test_distances_of_near_pairs_keep_their_digits_in_float32(measure):
    """|x|² + |y|² - 2xy would lose them all: these rows have length 30 and are 0.01 apart."""
    x = torch.full((2, 9), 10.0)
    x[1, 0] += 0.01
    expected = (x[1, 0] - x[0, 0]).item()
    pairs = Pairs.within(x, torch.tensor([0, 0]), similarity=measure)
    distance = expected if measure == "euclidean" else expected**2
    assert pairs.positives.similarity.tolist() == pytest.approx([-distance] * 2, rel=1e-5)
    chosen = pairs.block.at(torch.tensor([0]), torch.tensor([1]))
    assert chosen.tolist() == pytest.approx([-distance], rel=1e-5)


def test_own_must_be_rows_of_the_candidates():
    x, labels = torch.ones(2, 3), torch.tensor([0, 1])
    with pytest.raises(NearfarError, match="own must be rows of the 2 candidates"):
        Pairs.between(x, labels, x, labels, own=torch.tensor([0, 2]))


@pytest.mark.parametrize("backend", BACKENDS)
def test_intervals_and_thresholds_are_open(backend):
    """A similarity equal to a bound is outside, to a threshold not above it: the papers' comparisons are strict."""
    pairs = Pairs.within(
        torch.eye(2), torch.tensor([0, 1]), backend=backend
    )  # their similarity is 0, exactly
    at, under, over = torch.zeros(2), torch.full((2,), -0.1), torch.full((2,), 0.1)
    for kept, bounds in [(0, {"above": at}), (0, {"below": at}), (1, {"above": under}), (1, {"below": over})]:
        assert pairs.narrow(**bounds).stream(Count())[0].tolist() == [kept] * 2
    assert pairs.stream(Count(above=0.0))[0].tolist() == [0, 0]
    assert pairs.stream(Max(below=0.0))[0].tolist() == [-torch.inf] * 2

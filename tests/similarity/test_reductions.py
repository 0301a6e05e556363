"""What a loss may ask about negatives: each backend against `reference`, and that against hand-worked numbers."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from nearfar.pairs import Pairs
from nearfar.similarity import (
    ArgMax,
    Count,
    HingeSum,
    LogSumExp,
    Max,
    Min,
    OrderStatistic,
    Relevance,
    Sample,
    SigmoidSquareSum,
    SigmoidSum,
    SoftMean,
    SoftplusSum,
    SquaredHingeSum,
    Sum,
    TopK,
)
from problems import BACKENDS
from turns import in_turns

OTHERS = [backend for backend in BACKENDS if backend != "reference"]
KINDS = ["classes", "own", "ids", "tags", "relevance", "relevance between"]
PER = ["anchor", "positive", "candidate"]
# These are asked of an anchor alone.
ANCHOR_ONLY = ("OrderStatistic", "Sample")


def reductions(rows: int, generator: torch.Generator) -> dict[str, object]:
    """One of each, with thresholds for ``rows`` rows that carry gradient where that means something."""
    t = (0.4 * torch.randn(rows, generator=generator, dtype=torch.float64)).requires_grad_()
    rank = torch.randint(-1, 9, (rows,), generator=generator)
    uniform = torch.rand(rows, 3, generator=generator, dtype=torch.float64)
    return {
        "LogSumExp": LogSumExp(scale=6.0, shift=0.1),
        "LogSumExp floor": LogSumExp(scale=6.0, shift=0.2, floor=-0.1),
        "LogSumExp frozen": LogSumExp(scale=6.0, shift=0.2, floor=-0.1, frozen=True),
        "LogSumExp falling": LogSumExp(scale=-4.0),
        "SoftMean": SoftMean(scale=5.0),
        "SoftMean frozen": SoftMean(scale=-5.0, frozen=True),
        "Max": Max(),
        "Max below": Max(below=t.detach()),
        "ArgMax": ArgMax(),
        "ArgMax below": ArgMax(below=t.detach()),
        "TopK": TopK(4),
        "Min": Min(),
        "Sum": Sum(),
        "Count": Count(),
        "Count above": Count(above=t.detach()),
        "HingeSum": HingeSum(0.1),
        "HingeSum t": HingeSum(t),
        "SquaredHingeSum": SquaredHingeSum(-0.1),
        "SquaredHingeSum t": SquaredHingeSum(t),
        "SoftplusSum": SoftplusSum(0.1, 8.0),
        "SoftplusSum t": SoftplusSum(t, 3.0),
        "SigmoidSum": SigmoidSum(0.0, 4.0),
        "SigmoidSum t": SigmoidSum(t, 4.0),
        "SigmoidSum capped": SigmoidSum(-0.2, 4.0, 0.3),
        "SigmoidSum t capped": SigmoidSum(t, 4.0, 0.3),
        "SigmoidSquareSum": SigmoidSquareSum(0.0, 4.0),
        "SigmoidSquareSum t": SigmoidSquareSum(t, 4.0),
        "OrderStatistic": OrderStatistic(2),
        "OrderStatistic rank": OrderStatistic(rank),
        "OrderStatistic batch": OrderStatistic(5, over="batch"),
        "Sample": Sample(lambda s: 3 * s, uniform),
        "Sample some": Sample(lambda s: torch.where(s > 0, 0.0, -torch.inf), uniform),
    }


NAMES = list(reductions(1, torch.Generator()))


class Problem:
    """Vectors, labels of one kind, and bounds on similarity; ``pairs`` builds the comparisons on a backend."""

    def __init__(self, kind: str, n: int, measure: str = "cosine") -> None:
        self.kind, self.n, self.measure = kind, n, measure
        self.generator = torch.Generator().manual_seed(10 * n + KINDS.index(kind))
        self.x = torch.randn(n, 5, generator=self.generator, dtype=torch.float64).requires_grad_()
        self.y = torch.randn(n + 3, 5, generator=self.generator, dtype=torch.float64).requires_grad_()
        self.classes = torch.randint(0, 3, (2 * n + 3,), generator=self.generator)
        self.tags = (torch.rand(n, 4, generator=self.generator) < 0.3).int()
        self.relevant = torch.randint(0, n, (n, 2), generator=self.generator)
        self.own = torch.randperm(n + 3, generator=self.generator)[:n]
        self.own[::3] = -1
        self.ids = torch.randint(0, n + 1, (2 * n + 3,), generator=self.generator)
        # For a Euclidean measure similarities are around -3, and their square around -10.
        middle = {"cosine": 0.0, "dot": 0.0, "euclidean": -3.0, "squared_euclidean": -10.0}[measure]
        self.above = torch.randn(n, generator=self.generator, dtype=torch.float64) * 0.3 - 0.4 + middle
        self.below = self.above + 1.0 - middle

    def pairs(self, backend: str, bounded: bool) -> Pairs:
        n, x, y = self.n, self.x, self.y
        how = {"similarity": self.measure, "backend": backend}
        ours, theirs = self.classes[:n], self.classes[n:]
        match self.kind:
            case "classes":
                pairs = Pairs.within(x, ours, **how)
            case "own":
                pairs = Pairs.between(x, ours, y, theirs, self.own, **how)
            case "ids":
                pairs = Pairs.between(x, ours, y, theirs, ids=self.ids[:n], candidate_ids=self.ids[n:], **how)
            case "tags":
                pairs = Pairs.within(x, self.tags, ids=self.ids[:n], **how)
            case "relevance":
                pairs = Pairs.within(x, Relevance(self.relevant), **how)
            case "relevance between":
                pairs = Pairs.between(x, Relevance(self.relevant), y, **how)
        return pairs.narrow(above=self.above, below=self.below) if bounded else pairs

    def rows(self, per: str) -> int:
        pairs = self.pairs("dense", False)
        counts = {"positive": len(pairs.positives.anchor), "candidate": len(pairs.block.candidates)}
        return counts.get(per, self.n)


def pers(name: str) -> list[str]:
    return PER[:1] if name.startswith(ANCHOR_ONLY) else PER


def asked(problem: Problem, per: str) -> dict[str, object]:
    """Every reduction that there is for rows of one kind."""
    every = reductions(problem.rows(per), problem.generator)
    return {
        name: reduction if per == "anchor" else replace(reduction, per=per)
        for name, reduction in every.items()
        if per in pers(name)
    }


def value_and_gradients(pairs: Pairs, reduction: object, leaves: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
    (value,) = pairs.stream(reduction)
    if not value.requires_grad or not len(value):
        return value.detach(), []
    upstream = torch.linspace(0.5, 1.5, len(value), dtype=value.dtype)
    total = (torch.where(value.isfinite(), value, 0.0) * upstream).sum()
    threshold = getattr(reduction, "threshold", None)
    if isinstance(threshold, Tensor):
        leaves = [*leaves, threshold]
    grads = torch.autograd.grad(total, leaves, allow_unused=True, retain_graph=True)
    return value.detach(), [
        torch.zeros_like(x) if g is None else g for x, g in zip(leaves, grads, strict=True)
    ]


def check(problem: Problem, name: str, per: str, bounded: bool) -> None:
    """Compare every backend with `reference`, in value and in gradient."""
    reduction, leaves = asked(problem, per)[name], [problem.x, problem.y]
    theirs, their_grads = value_and_gradients(problem.pairs("reference", bounded), reduction, leaves)
    for backend in OTHERS:
        ours, our_grads = value_and_gradients(problem.pairs(backend, bounded), reduction, leaves)
        where = f"{backend}, {problem.kind}, n={problem.n}, per {per}, bounded={bounded}"
        assert ours.shape == theirs.shape, where
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-11, msg=lambda m, w=where: f"{w}: {m}")
        for grad, expected in zip(our_grads, their_grads, strict=True):
            torch.testing.assert_close(
                grad, expected, rtol=1e-8, atol=1e-10, msg=lambda m, w=where: f"{w}: {m}"
            )


@in_turns(6, kind=KINDS, name=NAMES)
def test_backends_equal_reference(name, kind):
    for n in (1, 2, 7, 33):
        problem = Problem(kind, n)
        for per in pers(name) if n < 33 else PER[:1]:
            check(problem, name, per, True)
            if n == 7:
                check(problem, name, per, False)


@in_turns(3, measure=["dot", "euclidean", "squared_euclidean"], name=NAMES)
def test_other_measures(name, measure):
    problem = Problem("ids", 7, measure)
    for per in pers(name):
        check(problem, name, per, True)


@in_turns(3, backend=BACKENDS, name=NAMES)
def test_of_listed_negatives(name, backend):
    """Naming every negative of every anchor changes nothing."""
    problem = Problem("classes", 7)
    pairs = problem.pairs(backend, True)
    (every,) = problem.pairs(backend, False).stream(TopK(7))
    # In order of the candidates, as a draw needs them; -1 is none.
    every = every.masked_fill(every < 0, 99).sort(1).values
    named = pairs.narrow(columns=every.masked_fill(every == 99, -1))
    for per in pers(name)[:2]:
        reduction = asked(problem, per)[name]
        value, grads = value_and_gradients(named, reduction, [problem.x])
        expected, expected_grads = value_and_gradients(pairs, reduction, [problem.x])
        torch.testing.assert_close(value, expected, rtol=1e-9, atol=1e-11)
        torch.testing.assert_close(grads, expected_grads, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("backend", OTHERS)
@pytest.mark.parametrize("per", PER)
def test_all_in_one_pass(per, backend):
    """Several reductions of one call are what each is alone, gradients added."""
    problem = Problem("classes", 7)
    every = list(asked(problem, per).values())
    pairs = problem.pairs(backend, True)
    together = pairs.stream(*every)
    total, expected = torch.zeros(()), torch.zeros(())
    for reduction, value in zip(every, together, strict=True):
        (alone,) = problem.pairs("reference", True).stream(reduction)
        torch.testing.assert_close(value, alone, rtol=1e-9, atol=1e-11)
        if value.requires_grad:
            total = total + torch.where(value.isfinite(), value, 0.0).sum()
            expected = expected + torch.where(alone.isfinite(), alone, 0.0).sum()
    (grad,) = torch.autograd.grad(total, problem.x)
    (expected_grad,) = torch.autograd.grad(expected, problem.x)
    torch.testing.assert_close(grad, expected_grad, rtol=1e-8, atol=1e-10)


def test_the_measures_bounds_leave_something():
    """The problems above are not empty: each measure's bounds keep some negatives and drop some."""
    for measure in ("cosine", "euclidean", "squared_euclidean"):
        problem = Problem("ids", 7, measure)
        (some,), (every,) = (problem.pairs("reference", b).stream(Count()) for b in (True, False))
        assert 0 < some.sum() < every.sum()


def line(backend: str) -> Pairs:
    """One anchor, at 1, whose products with its five negatives are their places; no positive."""
    places = torch.tensor([[0.5], [-0.25], [0.75], [0.5], [-1.0]], dtype=torch.float64)
    return Pairs.between(
        torch.ones(1, 1, dtype=torch.float64),
        torch.tensor([0]),
        places,
        torch.arange(1, 6),
        similarity="dot",
        backend=backend,
    )


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    ("reduction", "expected"),
    [
        (LogSumExp(scale=2.0, shift=0.5), math.log(2 + math.exp(-1.5) + math.exp(0.5) + math.exp(-3.0))),
        # z = 4 max(0, s) (s - 0.5): 0, 0, 0.75, 0, 0.
        (LogSumExp(scale=4.0, shift=0.5, floor=0.0), math.log(4 + math.exp(0.75))),
        (SoftMean(scale=0.0), 0.1),
        (Max(), 0.75),
        (Max(below=0.75), 0.5),
        (Max(below=-1.0), -math.inf),
        (ArgMax(), 2),
        (ArgMax(below=-1.0), -1),
        (TopK(1), [2]),
        (TopK(7), [2, 0, 3, 1, 4, -1, -1]),
        (Min(), -1.0),
        (Sum(), 0.5),
        (Count(), 5.0),
        (Count(above=0.5), 1.0),  # strictly above
        (HingeSum(0.5), 0.25),
        (SquaredHingeSum(0.0), 0.25 + 0.25 + 0.5625),
        (SoftplusSum(0.5, 2.0), sum(math.log1p(math.exp(2 * z)) for z in (0, -0.75, 0.25, 0, -1.5)) / 2),
        (SigmoidSum(0.5, 2.0), sum(1 / (1 + math.exp(-2 * z)) for z in (0, -0.75, 0.25, 0, -1.5))),
        # Of z = 0, -0.75, 0.25, 0, -1.5 none counts for more than -0.5.
        (
            SigmoidSum(0.5, 2.0, -0.5),
            sum(1 / (1 + math.exp(-2 * z)) for z in (-0.5, -0.75, -0.5, -0.5, -1.5)),
        ),
        (SigmoidSquareSum(0.5, 2.0), sum((1 + math.exp(-2 * z)) ** -2 for z in (0, -0.75, 0.25, 0, -1.5))),
        (OrderStatistic(1), 0.75),
        (OrderStatistic(3), 0.5),
        (OrderStatistic(5), -1.0),
        (OrderStatistic(6), -math.inf),
        (OrderStatistic(0), math.inf),
        (OrderStatistic(4, over="batch"), -0.25),
        (Sample(torch.zeros_like, torch.tensor([[0.0, 0.19, 0.21, 0.99]])), [0, 0, 1, 4]),
        # Weights 1, 0, 1, 1, 0: those of weight 0 are never drawn.
        (
            Sample(lambda s: torch.where(s > 0, 0.0, -torch.inf), torch.tensor([[0.0, 0.3, 0.34, 0.999]])),
            [0, 0, 2, 3],
        ),
        # All weights 0: every one alike.
        (Sample(lambda s: s - torch.inf, torch.tensor([[0.1, 0.3, 0.5, 0.9]])), [0, 1, 2, 4]),
    ],
    ids=lambda value: type(value).__name__,
)
def test_by_hand(reduction, expected, backend):
    (value,) = line(backend).stream(reduction)
    if isinstance(reduction, TopK):  # which of two equals comes first is open
        assert sorted(value[0].tolist()[:3]) == sorted(expected[:3])
        assert value[0].tolist()[3:] == expected[3:]
    elif isinstance(expected, list):
        assert value[0].tolist() == expected
    else:
        assert value.item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("backend", BACKENDS)
def test_one_of_two_equals_is_taken(backend):
    (first,), (again,) = (line(backend).stream(ArgMax(below=0.75)) for _ in range(2))
    assert first.item() in (0, 3)
    assert first == again


@pytest.mark.parametrize("backend", BACKENDS)
def test_intervals_are_open(backend):
    one = torch.ones(1, dtype=torch.float64)
    pairs = line(backend).narrow(above=-1.0 * one, below=0.75 * one)
    assert pairs.stream(Count())[0].item() == 3
    assert pairs.narrow(below=0.5 * one).stream(Max())[0].item() == -0.25


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("n", [1, 4])
def test_no_negatives(n, backend):
    """One class only: the values that the documentation gives, without gradient."""
    x = torch.randn(n, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    pairs = Pairs.within(x, torch.zeros(n, dtype=torch.long), backend=backend)
    columns = {"TopK": 4, "Sample": 3, "Sample some": 3}
    for name, reduction in reductions(n, torch.Generator().manual_seed(1)).items():
        (value,) = pairs.stream(reduction)
        if name in columns:
            assert value.tolist() == [[-1] * columns[name]] * n, name
            continue
        if name == "OrderStatistic rank":
            expected = torch.where(reduction.rank < 1, torch.inf, -torch.inf).tolist()
        else:
            low = name.startswith(("LogSumExp", "Max", "OrderStatistic"))
            expected = [-math.inf if low else math.inf if name == "Min" else -1 if "Arg" in name else 0] * n
        assert value.tolist() == expected, name
        if value.requires_grad:
            finite = torch.where(value.isfinite(), value, 0.0).sum()
            (grad,) = torch.autograd.grad(finite, x, allow_unused=True, retain_graph=True)
            assert grad is None or not grad.any(), name

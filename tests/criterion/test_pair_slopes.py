"""dL/dS of every pair with batch and memory, against loops over a matrix and against the gradient of the loss."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import nearfar
from nearfar.criterion import pair_slopes as module
from nearfar.criterion.pair_slopes import PairSlopes, pair_slopes
from nearfar.similarity import normalize
from nearfar.similarity.dense import slopes
from nearfar.train.further import active_pairs
from problems import PAIR_LOSSES, TRIPLET_LOSSES, TWO_SIDED_LOSSES, WHOLE_BATCH_LOSSES
from turns import in_turns

N, M, DIM, CLASSES = 14, 30, 6, 4
NOT_OF_PAIRS = {"angular", "quadruplet", "rank_hard"}
EVERY = [*PAIR_LOSSES, *TRIPLET_LOSSES, *TWO_SIDED_LOSSES, *WHOLE_BATCH_LOSSES]
RULES = ["hard", "semi_hard", "multi_similarity", "top_k", "relative", "easy_positive", "distance_weighted"]

Value = Callable[[list[list[Tensor]], list[list[bool]], list[list[bool]]], Tensor]
"""(similarities, which are positives, which are negatives) -> loss; all [anchor][candidate]"""


def problem(combine: str = "together") -> tuple[Tensor, Tensor, Tensor, nearfar.CrossBatchMemory]:
    """Unit rows, labels, ids and a memory that knows two of the ids."""
    generator = torch.Generator().manual_seed(3)
    rows = normalize(torch.randn(N + M, DIM, generator=generator, dtype=torch.float64))
    labels = torch.randint(CLASSES, (N + M,), generator=generator)
    memory = nearfar.CrossBatchMemory(M, combine=combine, weight=0.7 if combine == "sum" else 1.0)
    memory.add(rows[N:], labels[N:], torch.arange(N - 2, N - 2 + M))
    return rows[:N], labels[:N], torch.arange(N), memory


def looked_at(loss: nearfar.losses.Loss, combine: str, seed: int = 0) -> PairSlopes | None:
    x, labels, ids, memory = problem(combine)
    return pair_slopes(loss, x, labels, ids, memory, seed=seed)


def contrastive(s: list[list[Tensor]], positive: list[list[bool]], negative: list[list[bool]]) -> Tensor:
    terms = [s[0][0].new_zeros(())]
    for i, row in enumerate(s):
        terms += [(1 - x).clamp_min(0) for x, p in zip(row, positive[i], strict=True) if p]
        terms += [(x - 0.5).clamp_min(0) for x, n in zip(row, negative[i], strict=True) if n]
    return torch.stack(terms).sum() / len(s)


def triplet_hard(s: list[list[Tensor]], positive: list[list[bool]], negative: list[list[bool]]) -> Tensor:
    values = []
    for i, row in enumerate(s):
        near = [x for x, n in zip(row, negative[i], strict=True) if n]
        far = [x for x, p in zip(row, positive[i], strict=True) if p]
        if near and far:
            values.append((max(near) - min(far) + 0.3).clamp_min(0))
    return torch.stack(values).mean()


def multi_similarity(s: list[list[Tensor]], positive: list[list[bool]], negative: list[list[bool]]) -> Tensor:
    values = []
    for i, row in enumerate(s):
        far = [x for x, p in zip(row, positive[i], strict=True) if p]
        near = [x for x, n in zip(row, negative[i], strict=True) if n]
        kept_far = [x for x in far if near and x < max(near) + 0.1]
        kept_near = [x for x in near if far and x > min(far) - 0.1]
        value = s[0][0].new_zeros(())
        if kept_far:
            value = value + (1 + sum(torch.exp(-2 * (x - 0.5)) for x in kept_far)).log() / 2
        if kept_near:
            value = value + (1 + sum(torch.exp(40 * (x - 0.5)) for x in kept_near)).log() / 40
        values.append(value)
    return torch.stack(values).mean()


def supcon(s: list[list[Tensor]], positive: list[list[bool]], negative: list[list[bool]]) -> Tensor:
    values = []
    for i, row in enumerate(s):
        met = [x / 0.1 for x, p, n in zip(row, positive[i], negative[i], strict=True) if p or n]
        own = [x / 0.1 for x, p in zip(row, positive[i], strict=True) if p]
        if own:
            values.append(torch.stack([torch.logsumexp(torch.stack(met), 0) - x for x in own]).mean())
    return torch.stack(values).sum() / len(values)


def margin(s: list[list[Tensor]], positive: list[list[bool]], negative: list[list[bool]]) -> Tensor:
    terms = []
    for i, row in enumerate(s):
        for x, p, n in zip(row, positive[i], negative[i], strict=True):
            d = (2 - 2 * x).clamp_min(1e-12).sqrt()
            if p:
                terms += [(0.2 + d - 1.2).clamp_min(0)]
            if n:
                terms += [(0.2 - d + 1.2).clamp_min(0)]
    active = [term for term in terms if term > 0]
    return torch.stack(active).sum() / len(active)


LOOPS: dict[str, tuple[Value, dict[str, object]]] = {
    "contrastive": (contrastive, {"positive_margin": 1.0, "negative_margin": 0.5}),
    "triplet": (triplet_hard, {"mining": "hard", "margin": 0.3}),
    "multi_similarity": (multi_similarity, {"mining": "multi_similarity", "beta": 40.0}),
    "supcon": (supcon, {"temperature": 0.1}),
    "margin": (margin, {}),
}


def looped(value: Value, candidates: Tensor, kin: Tensor, names: Tensor) -> Tensor:
    """dL/dS of the problem's anchors with some candidates."""
    x, labels, ids, _ = problem()
    same, other = labels[:, None] == kin, ids[:, None] != names
    matrix = (x @ candidates.T).requires_grad_()
    s = [[matrix[i, j] for j in range(len(candidates))] for i in range(N)]
    (found,) = torch.autograd.grad(value(s, (same & other).tolist(), (~same & other).tolist()), matrix)
    return found


@pytest.mark.parametrize("name", LOOPS)
@pytest.mark.parametrize("combine", ["together", "sum"])
def test_slopes_are_those_of_loops_over_all_pairs(name: str, combine: str) -> None:
    value, settings = LOOPS[name]
    x, labels, ids, memory = problem(combine)
    past, kin, names = memory.embeddings, memory.labels, memory.ids
    if combine == "together":
        both = looped(value, torch.cat([x, past]), torch.cat([labels, kin]), torch.cat([ids, names]))
        here, there = both[:, :N], both[:, N:]
    else:
        here, there = looped(value, x, labels, ids), 0.7 * looped(value, past, kin, names)
    found = looked_at(nearfar.losses.create(name, **settings), combine)
    assert found is not None
    if name == "margin":  # compares by the distance: dL/dD = dL/ds · ds/dD, with s = 1 - D²/2
        here, there = (
            slope * (2 - 2 * x @ other.T).clamp_min(0).sqrt() for slope, other in ((here, x), (there, past))
        )
    torch.testing.assert_close(found.batch, here, atol=1e-9, rtol=1e-7)
    torch.testing.assert_close(found.memory, there, atol=1e-9, rtol=1e-7)
    assert (found.batch.abs() > 1e-9).any()
    assert (found.memory.abs() > 1e-9).any()


MINED = ("contrastive", "triplet", "supcon", "npair_mined", "circle")
WITH_RULES = [(name, None) for name in EVERY] + [(name, rule) for name in MINED for rule in RULES]
WITH_RULES += [("margin", "distance_weighted"), ("margin", "hard")]


@in_turns(3, told=WITH_RULES, combine=["together", "sum", "memory"])
@pytest.mark.filterwarnings("ignore:this batch has no positive pair")
def test_slopes_make_up_the_gradient_of_the_loss(told: tuple[str, str | None], combine: str) -> None:
    """dL/dx from dL/dS by hand, where S is a product."""
    name, mining = told
    loss = nearfar.losses.create(name, mining=mining)
    x, labels, ids, memory = problem(combine)
    torch.manual_seed(5)
    found = pair_slopes(loss, x, labels, ids, memory, seed=0)
    if name in NOT_OF_PAIRS:
        assert found is None
        return
    assert found is not None
    loss.eval()  # the memory is read and left alone
    x.requires_grad_()
    torch.manual_seed(5)
    value = loss(x, labels, ids=ids, memory=memory)
    (expected,) = torch.autograd.grad(value, x)
    if name == "snr_contrastive":  # the anchors' lengths count as well
        return
    y = x.detach().requires_grad_()
    view = loss._entry.view or (lambda rows, _: (normalize(rows), "cosine"))
    (vectors, measure), others = view(y, "cosine"), view(memory.embeddings, "cosine")[0]
    here, there = (compared(vectors, some, measure) for some in (vectors, others))
    eye = torch.eye(N, dtype=torch.bool)  # a row and itself are no pair
    batch = found.batch.masked_fill(eye, 0.0) if found.batch.numel() else torch.zeros_like(here)
    (dx,) = torch.autograd.grad((batch * here.masked_fill(eye, 0.0)).sum() + (found.memory * there).sum(), y)
    torch.testing.assert_close(dx, expected, atol=1e-9, rtol=1e-6)


def compared(rows: Tensor, columns: Tensor, measure: str) -> Tensor:
    if measure == "cosine":
        return normalize(rows) @ normalize(columns).T
    square = (rows[:, None] - columns[None]).square().sum(2)
    return -square if measure == "squared_euclidean" else -(square + 1e-300).sqrt()


@pytest.mark.parametrize("name", ["supcon", "triplet"])
def test_some_anchors_have_the_slopes_that_they_have_among_all(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    loss = nearfar.losses.create(name, reduction="sum")
    every = looked_at(loss, "together")
    monkeypatch.setattr(module, "FEWEST", 5)
    monkeypatch.setattr(module, "MOST", 0)
    some = looked_at(loss, "together", seed=1)
    assert every is not None
    assert some is not None
    assert (len(some.batch), some.of, every.of) == (5, N, N)
    drawn = torch.randperm(N, generator=torch.Generator().manual_seed(1))[:5].sort().values
    torch.testing.assert_close(some.batch, every.batch[drawn])
    torch.testing.assert_close(some.memory, every.memory[drawn])


def test_fewer_anchors_where_rows_of_positive_pairs_would_be_too_many(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(slopes, "MOST", 2000)
    some = looked_at(nearfar.losses.create("triplet"), "together")
    assert some is not None
    assert 1 <= len(some.batch) < N
    assert len(looked_at(nearfar.losses.create("supcon"), "together").batch) == N
    monkeypatch.setattr(module, "WHOLE", 0)
    assert looked_at(nearfar.losses.create("histogram"), "together") is None


def test_looking_changes_nothing() -> None:
    loss = nearfar.losses.create("margin", mining="distance_weighted")
    x, labels, ids, memory = problem()
    before, state = torch.get_rng_state(), memory.state_dict()
    x.requires_grad_()
    active_pairs(loss, memory, x, labels, ids, step=3)
    assert torch.equal(torch.get_rng_state(), before)
    assert x.grad is None
    assert loss.last is None
    after = memory.state_dict()
    assert all(torch.equal(v, after[k]) if isinstance(v, Tensor) else v == after[k] for k, v in state.items())


def test_numbers_that_a_step_tells() -> None:
    """Batch hard: one positive and one negative for each anchor with a violation, wherever they lie."""
    x, labels, ids, memory = problem()
    added = nearfar.losses.Sum(
        {
            nearfar.losses.create("proxy_anchor", classes=CLASSES, dim=DIM): 1.0,
            nearfar.losses.create("triplet", mining="hard", margin=3.0): 1.0,
        }
    )
    told = active_pairs(added, memory, x, labels, ids, step=0)
    assert told["active_in_batch"] + told["active_in_memory"] == 2
    assert told["pairs_from_memory"] == told["active_in_memory"] / 2
    assert told["gradient_from_memory"] == pytest.approx(told["pairs_from_memory"])  # all weigh the same
    candidates, kin = torch.cat([x, memory.embeddings]), torch.cat([labels, memory.labels])
    s = (x @ candidates.T).masked_fill(torch.cat([ids, memory.ids]) == ids[:, None], torch.nan)
    same = labels[:, None] == kin
    far = s.masked_fill(~same, torch.nan).nan_to_num(9).argmin(1)
    near = s.masked_fill(same, torch.nan).nan_to_num(-9).argmax(1)
    assert told["active_in_memory"] == ((far >= N).sum() + (near >= N).sum()) / N
    memory.clear()
    assert active_pairs(added, memory, x, labels, ids, step=0) == {}

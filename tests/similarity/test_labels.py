"""Who is of a kind with whom: classes, tags and listed pairs, and what is said of labels that do not fit."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import nearfar
from nearfar.errors import NearfarError
from nearfar.inputs import kinship
from nearfar.similarity import Listed, Relation, Relevance, SameClass, SharedTag
from problems import BACKENDS, batch
from turns import in_turns


def same_class(n: int, m: int, generator: torch.Generator) -> tuple[SameClass, torch.Tensor]:
    a = torch.randint(-2, 2, (n,), generator=generator) * 2**40
    b = torch.randint(-2, 2, (m,), generator=generator) * 2**40
    table = [[bool(a[i] == b[j]) for j in range(m)] for i in range(n)]
    return SameClass(a, b), torch.tensor(table).view(n, m)


def shared_tag(n: int, m: int, generator: torch.Generator) -> tuple[SharedTag, torch.Tensor]:
    a = torch.rand(n, 5, generator=generator) < 0.3
    b = torch.rand(m, 5, generator=generator) < 0.3
    table = [[bool((a[i] & b[j]).any()) for j in range(m)] for i in range(n)]
    return SharedTag(a, b), torch.tensor(table).view(n, m)


def listed(n: int, m: int, generator: torch.Generator) -> tuple[Listed, torch.Tensor]:
    k = 2 * n if m else 0
    pairs = torch.stack([torch.randint(0, max(1, top), (k,), generator=generator) for top in (n, m)], 1)
    table = torch.zeros(n, m, dtype=torch.bool)
    table[pairs[:, 0], pairs[:, 1]] = True  # repeats among the pairs count once
    return Listed.of(pairs, n, m), table


MAKERS = [same_class, shared_tag, listed]
SIZES = [(1, 1), (2, 7), (7, 2), (33, 20), (3, 0)]


@pytest.mark.parametrize(("n", "m"), SIZES)
@pytest.mark.parametrize("make", MAKERS)
def test_kinship_equals_its_table(make, n, m):
    generator = torch.Generator().manual_seed(n)
    kin, table = make(n, m, generator)
    anchor, candidate = kin.pairs()
    # nonzero lists by anchor, then by candidate: the order that is promised.
    assert torch.stack([anchor, candidate], 1).tolist() == table.nonzero().tolist()
    assert kin.count() == table.sum()
    every = torch.arange(n)
    assert torch.equal(kin.mask(every), table)
    rows = torch.tensor([n - 1, 0, n // 2, 0])
    assert torch.equal(kin.mask(rows), table[rows])
    some = torch.randperm(n, generator=generator)[: max(1, n // 2)]
    taken = kin.take(some)
    assert torch.equal(taken.mask(torch.arange(len(some))), table[some])
    assert torch.stack(taken.pairs(), 1).tolist() == table[some].nonzero().tolist()
    assert taken.count() == table[some].sum()
    for order, size in zip(kin.order(), (n, m), strict=True):
        assert sorted(order.tolist()) == list(range(size))


def test_order_puts_classes_together():
    kin = SameClass(torch.tensor([3, 1, 3, 1]), torch.tensor([1, 3, 1]))
    anchors, candidates = kin.order()
    assert kin.anchors[anchors].tolist() == [1, 1, 3, 3]
    assert kin.candidates[candidates].tolist() == [1, 1, 3]


@st.composite
def relations(draw):
    n, m = draw(st.integers(1, 9)), draw(st.integers(1, 9))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    kin, table = draw(st.sampled_from(MAKERS))(n, m, generator)
    own = anchor_ids = candidate_ids = None
    never = torch.zeros(n, m, dtype=torch.bool)
    if draw(st.booleans()):
        own = torch.randint(-1, m, (n,), generator=generator)
        for i in range(n):
            if own[i] >= 0:
                never[i, own[i]] = True
    if draw(st.booleans()):
        anchor_ids, candidate_ids = (torch.randint(0, 6, (k,), generator=generator) for k in (n, m))
        never |= anchor_ids[:, None] == candidate_ids[None]
    return Relation(kin, own, anchor_ids, candidate_ids), table, never


@settings(max_examples=80, deadline=None)
@given(relations())
def test_every_pair_is_positive_negative_or_never_compared(problem):
    relation, table, never = problem
    n = len(table)
    assert torch.stack(relation.positives(), 1).tolist() == (table & ~never).nonzero().tolist()
    assert torch.equal(relation.negative(torch.arange(n)), ~table & ~never)
    assert set(map(tuple, torch.stack(relation.not_negative(), 1).tolist())) == set(
        map(tuple, (table | never).nonzero().tolist())
    )
    rows = torch.arange(n).flip(0)[: n // 2 + 1]
    taken = relation.take(rows)
    assert torch.stack(taken.positives(), 1).tolist() == (table & ~never)[rows].nonzero().tolist()
    assert torch.equal(taken.negative(torch.arange(len(rows))), (~table & ~never)[rows])


def pairs_of(kin) -> list[tuple[int, int]]:
    return list(map(tuple, torch.stack(kin.pairs(), 1).tolist()))


def test_labels_of_every_kind():
    assert pairs_of(kinship(torch.tensor([5, 6, 5], dtype=torch.int8), 3)) == [
        (0, 0),
        (0, 2),
        (1, 1),
        (2, 0),
        (2, 2),
    ]
    tags = torch.tensor([[1, 0, 0], [0, 1, 1], [1, 1, 0], [0, 0, 0]])
    expected = [(0, 0), (0, 2), (1, 1), (1, 2), (2, 0), (2, 1), (2, 2)]
    for kind in (torch.int64, torch.uint8, torch.bool, torch.float32):
        assert pairs_of(kinship(tags.to(kind), 4)) == expected
    relevance = Relevance(torch.tensor([[0, 1], [0, 1], [2, 2]]))
    assert pairs_of(kinship(relevance, 3)) == [(0, 1), (1, 0), (2, 2)]  # within a batch, both ways
    assert pairs_of(kinship(relevance, 3, None, 5)) == [(0, 1), (2, 2)]
    assert kinship(Relevance(torch.zeros(0, 2, dtype=torch.long)), 3).count() == 0


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (([0, 1], 2), "labels must be a torch tensor; got list"),
        ((torch.tensor([0.0, 1.0]), 2), "labels must be whole numbers of shape \\[n\\]; got \\[2\\] of torch.float32"),
        ((torch.tensor([True, False]), 2), "labels must be whole numbers"),
        ((torch.tensor(3), 1), "labels must be whole numbers of shape \\[n\\]; got \\[\\] of torch.int64"),
        ((torch.tensor([0, 1, 2]), 2), "labels has 3 rows but embeddings has 2; give one label for each embedding"),
        ((torch.tensor([[0, 2]]), 1), "labels of shape \\[n, tag\\] must hold only 0 and 1"),
        ((torch.zeros(3, 4), 2), "labels has 3 rows but embeddings has 2"),
        ((torch.zeros(2, 2, 2, dtype=torch.long), 2), "labels must be whole numbers of shape \\[n\\]"),
        (
            (torch.tensor([0, 1]), 2, torch.tensor([0]), 3),
            "candidate_labels has 1 rows but candidates has 3; give one label for each candidate",
        ),
        ((torch.tensor([0, 1]), 2, None, 3), "candidate_labels must be a torch tensor; got NoneType"),
        ((torch.tensor([0, 1]), 2, torch.zeros(3, 4), 3), "both need classes \\[n\\], or both the same tags"),
        ((torch.zeros(2, 3), 2, torch.zeros(3, 4), 3), "labels has shape \\[2, 3\\] but candidate_labels has"),
        ((Relevance(torch.tensor([[0, 1]])), 2, torch.tensor([0, 1]), 2), "leave candidate_labels out"),
        ((Relevance(torch.tensor([0, 1])), 2), "whole numbers of shape \\[k, 2\\], \\(anchor, candidate\\); got \\[2\\]"),
        ((Relevance(torch.tensor([[0.0, 1.0]])), 2), "Relevance takes whole numbers"),
        ((Relevance([[0, 1]]), 2), "Relevance takes whole numbers .* got list"),
        ((Relevance(torch.tensor([[0, 1], [1, 2]])), 2), "names the pair \\(1, 2\\), but there are 2 anchors and 2"),
        ((Relevance(torch.tensor([[-1, 0]])), 2), "names the pair \\(-1, 0\\)"),
        ((Relevance(torch.tensor([[2, 4]])), 3, None, 4), "but there are 3 anchors and 4 candidates, counted from 0"),
    ],
    ids=str,
)  # fmt: skip
def test_refuses_in_words(arguments, sentence):
    with pytest.raises(NearfarError, match=sentence):
        kinship(*arguments)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("relevance", [False, True], ids=["tags", "relevance"])
def test_a_loss_by_hand(relevance, backend):
    """Four points on a line; 0-1 and 1-2 are positives, everything else is negative.

    Textbook contrastive with margin 3: Σ over ordered positives of D²/2 and over negatives of (3 - D)²/2.
    """
    x = torch.tensor([[0.0], [1.0], [3.0], [4.0]], dtype=torch.float64, requires_grad=True)
    tags = torch.tensor([[1, 0], [1, 1], [0, 1], [0, 0]])
    labels = Relevance(torch.tensor([[0, 1], [2, 1]])) if relevance else tags
    loss = nearfar.losses.create(
        "contrastive",
        squared=True,
        negative_margin=3.0,
        similarity="euclidean",
        reduction="none",
        backend=backend,
    )
    value = loss(x, labels)
    # 0: positive 1 (½). Negatives 2 at 3 (0), 3 at 4 (0).   1: positives 0 (½), 2 (2). Negative 3 at 3 (0).
    # 2: positive 1 (2). Negatives 0 (0), 3 at 1 (2).        3: negatives 2 at 1 (2), others 0.
    assert value.tolist() == pytest.approx([0.5, 2.5, 4.0, 2.0])
    (grad,) = torch.autograd.grad(value.sum(), x)
    # Each unordered pair counts twice: descent pulls positives by 2 D and pushes 2 and 3 apart by 2 (3 - 1).
    assert grad[:, 0].tolist() == pytest.approx([-2.0, 2.0 - 4.0, 4.0 + 4.0, -4.0])


@in_turns(
    3,
    backend=BACKENDS,
    mining=[None, "hard", "semi_hard", "multi_similarity", "relative", "easy"],
    name=["contrastive", "multi_similarity", "supcon", "triplet"],
)
def test_classes_written_in_other_ways(name, mining, backend):
    """Classes, their one-hot rows, and the list of their pairs are the same labels."""
    x, labels = batch(4, 3, 5, spread=0.8)
    loss = nearfar.losses.create(name, mining=mining, backend=backend)
    one_hot = torch.nn.functional.one_hot(labels)
    positives = Relevance((labels[:, None] == labels).triu(1).nonzero())
    expected = grad_and_value(loss, x, labels)
    for others in (one_hot, positives):
        torch.testing.assert_close(grad_and_value(loss, x, others), expected, rtol=1e-9, atol=1e-11)


def grad_and_value(loss, x, labels) -> tuple[torch.Tensor, torch.Tensor]:
    x = x.clone().requires_grad_()
    value = loss(x, labels)
    return value.detach(), torch.autograd.grad(value, x)[0]


def test_a_network_learns_from_tags():
    """Points that share a tag come together, those that share none move apart."""
    generator = torch.Generator().manual_seed(0)
    tags = torch.tensor([[1, 0, 0], [1, 1, 0], [0, 1, 0], [0, 0, 1], [0, 0, 1]]).repeat(3, 1)
    x = torch.randn(15, 4, generator=generator).requires_grad_()
    loss = nearfar.losses.create("supcon")
    optimizer = torch.optim.SGD([x], lr=1.0)
    for _ in range(60):
        optimizer.zero_grad()
        loss(x, tags).backward()
        optimizer.step()
    unit = torch.nn.functional.normalize(x.detach(), dim=1)
    s, shared = unit @ unit.T, tags.float() @ tags.float().T > 0
    assert s[shared].mean() > s[~shared].mean() + 0.8

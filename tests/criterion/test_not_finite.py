"""NaN and infinity have one rule: wherever they come from, the loss is not finite, and none of its gradient is."""

from functools import partial
from itertools import product
from typing import Any, get_args
from zlib import crc32

import pytest
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

import nearfar
from nearfar.criterion import finite
from nearfar.criterion.pair_slopes import pair_slopes
from nearfar.errors import NearfarError
from nearfar.losses import Loss
from nearfar.losses.parts.bins import of_positives
from nearfar.losses.parts.registry import has_proxies
from nearfar.similarity import (
    ArgMax,
    HingeSum,
    LogSumExp,
    Max,
    Measure,
    Min,
    OrderStatistic,
    Sample,
    TopK,
)
from nearfar.similarity.stable import at_once
from problems import BACKENDS

pytestmark = pytest.mark.filterwarnings("ignore:this batch has no positive pair")

MEASURES = get_args(Measure)
REDUCTIONS = ["mean", "mean_valid", "mean_terms", "mean_active", "sum", "none"]
DTYPES = [torch.float32, torch.bfloat16, torch.float64, torch.float16]
BAD = [torch.nan, torch.inf, -torch.inf]
NEEDED = {"interval": {"above": -1.0}, "random": {"seed": 3}, "distance_weighted": {"seed": 3}}
RULES: list[dict[str, Any]] = [
    *({"name": name, **NEEDED.get(name, {})} for name in nearfar.mining.names() if name != "all"),
    {"name": "relative", "negative_over": "batch"},
]
labels = torch.arange(8) // 2


@pytest.fixture(params=["at once", "on the device"])
def judged(request, monkeypatch):
    """As on a device whose numbers are read at once, and as on one that nobody waits for."""
    if request.param == "on the device":
        monkeypatch.setattr(finite, "at_once", lambda _: False)


def create(name: str, **settings: Any) -> Loss:
    torch.manual_seed(1)
    classes = {"classes": 4, "dim": 5} if has_proxies(name) else {}
    return nearfar.losses.create(name, **classes, **settings)


def vectors(dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    return torch.randn(8, 5, generator=torch.Generator().manual_seed(seed)).to(dtype)


def spoilt(x: Tensor, bad: float, rows: slice) -> Tensor:
    x = x.clone()
    x[rows, 1] = bad
    return x.requires_grad_()


def told(value: Tensor, *inputs: Tensor) -> None:
    """Both who look at the loss and who look at the gradient notice."""
    assert not value.isfinite().any()
    for gradient in torch.autograd.grad(value.sum(), inputs):
        assert not gradient.isfinite().any()


ROWS = [slice(3, 4), slice(None)]
EVERY = list(product(BAD, ROWS))
SETTINGS = {"histogram": {"bins": 7}}


def each_rule(name: str, backend: str, rule: dict[str, Any] | None, first: int, count: int) -> int:
    """Call a loss with ``count`` of the cases; these, similarity, reduction and precision in turns."""
    for place in range(len(MEASURES)):
        settings = {"similarity": MEASURES[(first + place) % len(MEASURES)], **SETTINGS.get(name, {})}
        try:
            loss = create(name, backend=backend, mining=rule, **settings)
            loss(vectors(), labels)
            break
        except NearfarError:
            continue
    else:
        return 0
    for k in range(first, first + count):
        bad, rows = EVERY[k % len(EVERY)]
        loss.reduction = REDUCTIONS[k % len(REDUCTIONS)]
        x = spoilt(vectors(DTYPES[k % len(DTYPES)]), bad, rows)
        told(loss(x, labels), x, *loss.parameters())
    return count


@pytest.mark.parametrize("name", nearfar.losses.names())
@pytest.mark.parametrize("place", range(3), ids=BACKENDS)
def test_every_loss_with_some_rules(name, place, monkeypatch):
    """One row or all of them; half of the rules, each on one backend; losses in turns as on a device nobody waits for."""
    turn = crc32(name.encode()) + place
    if turn % 2:
        monkeypatch.setattr(finite, "at_once", lambda _: False)
    assert each_rule(name, BACKENDS[place], None, turn + place, 2)
    for k in range(turn % 6, len(RULES), 6):
        each_rule(name, BACKENDS[place], RULES[k], turn + k, 1)


@pytest.mark.exhaustive
@pytest.mark.parametrize("name", nearfar.losses.names())
@pytest.mark.parametrize("backend", BACKENDS)
def test_everything(name, backend, judged):
    for rule in (None, *RULES):
        each_rule(name, backend, rule, crc32(f"{name} {backend} {rule}".encode()), len(EVERY))


@pytest.mark.parametrize("name", nearfar.losses.names())
def test_nobody_waits_for_the_device(name, judged, monkeypatch):
    """What is finite stays as it is, to the last bit, also where that is not known when the arithmetic begins."""
    settings = {"backend": "tiled" if name < "m" else "dense", **SETTINGS.get(name, {})}
    found = []
    for asked in (finite.at_once, at_once):
        monkeypatch.setattr(finite, "at_once", asked)
        loss, x = create(name, **settings), vectors().requires_grad_()
        value = loss(x, labels)
        found.append((value, *torch.autograd.grad(value, [x, *loss.parameters()])))
        told(loss(x := spoilt(vectors(), torch.nan, ROWS[0]), labels), x, *loss.parameters())
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))


@pytest.mark.parametrize(
    ("name", "rule"), [("triplet", "hard"), ("triplet", None), ("multi_similarity", "multi_similarity")]
)
@pytest.mark.parametrize("rows", ROWS)
def test_auto_in_tiles(name, rule, rows):
    """Above 362 rows ``auto`` takes tiles."""
    x = spoilt(torch.randn(400, 4, generator=torch.Generator().manual_seed(0)), torch.nan, rows)
    told(create(name, mining=rule)(x, torch.arange(400) // 4), x)


@pytest.mark.parametrize("bad", BAD)
def test_one_broken_candidate(bad, judged):
    for name, rule in product(["triplet", "supcon", "clip", "margin"], [None, "hard", "top_k"]):
        for first, second in (
            (vectors(), spoilt(vectors(seed=1), bad, ROWS[0])),
            (spoilt(vectors(), bad, ROWS[0]), vectors(seed=1)),
        ):
            x, y = first.detach().requires_grad_(), second.detach().requires_grad_()
            loss = create(name, mining=rule)
            try:
                value = loss(x, labels, y, labels)
            except NearfarError:
                continue
            told(value, x, y)
            with torch.no_grad():
                assert not loss(x, labels, y, labels).isfinite()


def test_candidates_of_no_anchor():
    value = create("triplet")(vectors()[:0], labels[:0], spoilt(vectors(), torch.nan, ROWS[0]), labels)
    assert value.isnan()


LEARNING = [name for name in nearfar.losses.names() if list(create(name).parameters())]


@pytest.mark.parametrize("name", LEARNING)
@pytest.mark.parametrize("backend", ["dense", "tiled"])
def test_what_is_learned(name, backend, judged):
    """One number of it, wherever that is."""
    for which in range(len(list(create(name).parameters()))):
        for bad in BAD:
            loss = create(name, backend=backend)
            x = vectors().requires_grad_()
            with torch.no_grad():
                list(loss.parameters())[which].view(-1)[-1] = bad
            told(loss(x, labels), x, *loss.parameters())


def test_a_setting_that_is_a_tensor():
    x, beta = vectors().requires_grad_(), torch.tensor(1.2, requires_grad=True)
    loss = create("margin", beta=beta, learn=False)
    assert loss(x, labels).isfinite()
    with torch.no_grad():
        beta.fill_(torch.nan)
    told(loss(x, labels), x)


@pytest.mark.parametrize("bad", BAD)
def test_a_weight_is_refused(bad):
    weights = torch.ones(8)
    weights[2] = bad
    with pytest.raises(NearfarError, match="weights must be finite"):
        create("triplet")(vectors(), labels, weights=weights)


def test_a_sum(judged):
    x = spoilt(vectors(), torch.inf, ROWS[0])
    both = nearfar.losses.Sum({"triplet": 1.0, "proxy_nca": 0.0, "uniformity": 0.1}, classes=4, dim=5)
    told(both(x, labels), x, *both.parameters())
    assert all(part.isnan() for part in both.parts.values())


def test_statistics_are_not_those_of_other_rows(judged):
    loss = create("triplet", mining="hard")
    loss(spoilt(vectors(), torch.nan, ROWS[0]), labels)
    assert loss.last.active.isnan()
    assert loss.last.positive_similarity.isnan()
    assert loss.last.negative_similarity.isnan()
    loss(vectors(), labels)
    assert loss.last.positive_similarity.isfinite()


@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("enqueue", ["after", "before"])
def test_a_memory_takes_in_the_other_rows(bad, enqueue, judged):
    for name, combine in product(
        ["triplet", "clip"], ["sum", "memory"] if enqueue == "before" else ["together"]
    ):
        memory = nearfar.CrossBatchMemory(20, enqueue=enqueue, combine=combine)
        loss = create(name, mining="hard" if name == "triplet" else None)
        told(loss(x := spoilt(vectors(), bad, ROWS[0]), labels, memory=memory), x)
        if enqueue == "before" or combine == "together":
            assert len(memory) == 7
        told(loss(x := spoilt(vectors(), bad, ROWS[0]), labels, memory=memory), x)
        assert len(memory) == 14
        assert memory.embeddings.isfinite().all()
        assert memory.embeddings[:14].any(1).all()
        assert torch.equal(memory.embeddings[:3], vectors()[:3])
        assert loss(vectors(), labels, memory=memory).isfinite()


@pytest.mark.parametrize("bad", BAD)
def test_slopes_of_pairs(bad):
    memory, loss = nearfar.CrossBatchMemory(20), create("supcon")
    memory.add(vectors(seed=1), labels)
    slopes = pair_slopes(loss, spoilt(vectors(), bad, ROWS[0]).detach(), labels, None, memory, seed=0)
    assert slopes.batch.isnan().all()
    assert slopes.memory.isnan().all()


RUNNING = ["adaface", "curricular_face"]


def running(loss: Loss) -> dict[str, float]:
    return {name: value.item() for name, value in loss.named_buffers() if name.startswith("running_")}


@pytest.mark.parametrize("name", RUNNING)
@pytest.mark.parametrize("backend", ["dense", "tiled"])
def test_running_numbers_stay(name, backend, judged):
    """A step that is not finite is as if it had not been; the next is that of a loss that never saw it."""
    for (bad, rows), dtype in product(EVERY, DTYPES[:2]):
        loss, other = create(name, backend=backend), create(name, backend=backend)
        before = running(loss)
        loss(spoilt(vectors(dtype), bad, rows), labels)
        assert running(loss) == before
        assert torch.equal(loss(vectors(), labels), other(vectors(), labels))
        assert running(loss) == running(other) != before


@pytest.mark.parametrize("name", RUNNING)
def test_running_numbers_move_in_training_steps_alone(name):
    loss = create(name)
    before = running(loss)
    with torch.no_grad():
        loss(vectors(), labels)
    with torch.inference_mode():
        loss(vectors(), labels)
    assert running(loss) == before
    loss.eval()
    loss(vectors().requires_grad_(), labels)
    assert running(loss) == before
    loss.train()
    loss(vectors().requires_grad_(), labels)
    assert running(loss) != before


@pytest.mark.parametrize("name", RUNNING)
@pytest.mark.parametrize("reentrant", [False, True])
def test_running_numbers_move_once_where_a_step_is_computed_again(name, reentrant):
    """``torch.utils.checkpoint``, around the loss or around network and loss."""
    net = torch.nn.Linear(5, 5)
    for call in (lambda loss, x: loss(x, labels), lambda loss, x: loss(net(x), labels)):
        plain, loss = create(name), create(name)
        x = vectors().requires_grad_()
        (expected,) = torch.autograd.grad(call(plain, x), x)
        value = checkpoint(partial(call, loss), x, use_reentrant=reentrant)
        assert running(loss) != running(plain) or not reentrant
        x.grad = None
        value.backward()
        assert running(loss) == running(plain)
        assert torch.equal(x.grad, expected)


@pytest.mark.parametrize("name", ["sphereface", "large_margin_softmax"])
@pytest.mark.parametrize("rows", ROWS)
def test_a_huge_row_is_a_number(name, rows):
    """|x|² is beyond float32 and |x| is not: as the definition has it in float64."""
    x = vectors()
    x[rows] *= 1e20
    found = {}
    for backend in ("dense", "tiled", "reference"):
        y = (x.double() if backend == "reference" else x).requires_grad_()
        loss = create(name, backend=backend).to(y.dtype)
        value = loss(y, labels)
        found[backend] = (value, *torch.autograd.grad(value, [y, loss.proxies]))
    exact = found["reference"]
    for one, other in zip(found["dense"], exact, strict=True):
        assert (one.double() - other).norm() <= 1e-5 * other.norm()
    assert found["tiled"][0].item() == pytest.approx(exact[0].item(), rel=1e-5)
    assert all(each.isfinite().all() for each in found["tiled"])


def test_a_huge_square_is_infinite_and_its_gradient_is_not():
    x = vectors()
    x[3] *= 1e20
    value = create("l2_norm")(x.requires_grad_(), labels)
    (gradient,) = torch.autograd.grad(value, x)
    assert value.item() == torch.inf
    torch.testing.assert_close(gradient, x.detach() / 8)


@pytest.mark.parametrize("backend", ["dense", "tiled"])
@pytest.mark.parametrize(("turn", "bad"), [*enumerate([*BAD, 3e38, 1.0])])
def test_pairs_alone_make_no_index_of_it(backend, turn, bad):
    """Below a loss there is no door: whatever comes out, places are places, and nothing is read beyond them."""
    uniform = torch.rand(8, 2, generator=torch.Generator().manual_seed(0))
    asked = [TopK(2), ArgMax(), Max(), Min(), OrderStatistic(rank=2), OrderStatistic(rank=5, over="batch")]
    asked += [LogSumExp(scale=2.0), HingeSum(0.1), Sample(torch.square, uniform)]
    for k, rule in enumerate([*len(MEASURES) * [None], *RULES]):
        measure, rows = MEASURES[k % len(MEASURES)], ROWS[(k + turn) % 2]
        x = vectors()
        x[rows, 1] = bad
        x.requires_grad_()
        pairs = nearfar.Pairs.within(x, labels, similarity=measure, backend=backend)
        try:
            pairs = pairs if rule is None else nearfar.mining.create(rule)(pairs)
        except NearfarError:  # a rule that is for unit vectors
            continue
        negatives = pairs.stream(*asked)
        for found in negatives:
            assert found.is_floating_point() or ((found >= -1) & (found < 8)).all()
        assert ((pairs.positives.candidate >= 0) & (pairs.positives.candidate < 8)).all()
        s = pairs.positives.similarity
        sums = [pairs.per_anchor(s, how).sum() for how in ("sum", "max", "min", "logsumexp")]
        sums += [found.sum() for found in negatives if found.requires_grad]
        torch.autograd.grad(torch.stack(sums).sum(), x)
        if measure == "cosine":
            of_positives(pairs, 5)

"""Losses on a device that is not the CPU: value and gradients are there, and those of the CPU."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch

import device_ranks
import nearfar
from device_ranks import moved
from nearfar.criterion.notices import Notices
from nearfar.errors import NearfarError
from nearfar.losses import Sum
from one_process import check as check_ranks
from one_process import expected, scale
from proxy_problems import EVERY as PROXY_LOSSES
from ranked_problems import Case, Model, N, batch, creations, everything, further, plainly, solve, some_cases

pytestmark = pytest.mark.filterwarnings("ignore:this batch has no positive pair")

BACKENDS = ("tiled", "auto", "dense", "reference")
BOUNDS = {torch.float64: 1e-12, torch.float32: 3e-5}  # in float32 the CPU computes few products in float64


def cases(every: int = 1) -> Iterator[Case]:
    """Every loss with every rule or each ``every``-th; memories, candidates, kinds of labels; backends in turns."""
    told = [{"create": create} for create in creations(every)]
    told += [*further(), *plainly()][:: min(every, 5)]
    for place, one in enumerate(told):
        # The reference takes seconds for some.
        backend = "reference" if place % 16 == 3 and "memory" not in one else BACKENDS[place % 3]
        yield Case(**{**one, "cut": [N], "create": {"backend": backend, **one["create"]}})


def found_on(case: Case, device: str) -> dict[str, Any]:
    """The value and the gradients of the loss on a device, brought from there."""
    model = Model(case).to(device)
    steps = [everything(case, batch(case, step)) for step in range(case.steps)]
    try:
        found = solve(model, [moved(step, device) for step in steps])
    except NearfarError as error:
        return {"error": str(error)}
    assert {x.device.type for x in found.values()} == {device}
    if model.memory is not None and model.memory.embeddings is not None:
        assert model.memory.embeddings.device.type == device
    return {key: x.cpu() for key, x in found.items()}


def check(case: Case, device: str) -> None:
    alone, found = expected(case), found_on(case, device)
    if "error" in alone or "error" in found:
        assert found == alone
        return
    assert [*found] == [*alone]
    for key, value in alone.items():
        bound = BOUNDS[case.dtype] * max(scale(alone, key), 1e-3)
        torch.testing.assert_close(found[key], value, rtol=0, atol=bound)


SOME = list(cases(every=14))


@pytest.mark.parametrize(
    "case", SOME, ids=[f"{place}-{case.create['name']}" for place, case in enumerate(SOME)]
)
def test_a_device_gives_what_the_cpu_gives(case, device):
    check(case, device)


@pytest.mark.exhaustive
@pytest.mark.parametrize("backend", BACKENDS)
def test_every_loss_with_every_rule(backend, device):
    for case in cases():
        check(replace(case, create={**case.create, "backend": backend}), device)


@pytest.mark.parametrize("every", [16, pytest.param(1, marks=pytest.mark.exhaustive)])
def test_two_ranks_on_a_device(every):
    """Rows that are gathered, and rows that go round."""
    exact = [case for case in some_cases(2, ("gather", "ring")) if case.dtype == torch.float64]
    check_ranks(exact[::every], device_ranks.run(exact[::every], 2))


X, Y = torch.randn(16, 8, generator=torch.Generator().manual_seed(0)), torch.arange(16) // 4


def test_a_sum_of_losses(device):
    found = []
    for place in ("cpu", device):
        torch.manual_seed(0)
        loss = Sum({"proxy_anchor": 1.0, "contrastive": 0.2}, classes=4, dim=8).to(place)
        x = X.clone().to(place).requires_grad_()
        loss(x, Y.to(place)).backward()
        assert x.grad is not None
        found.append(x.grad)
    torch.testing.assert_close(found[1].cpu(), found[0])


@pytest.mark.parametrize("held", [None, "cpu"])
def test_a_memory_is_read_where_the_batch_is(device, held):
    """Held there, or in main memory; and again from its state."""
    found = []
    for place in ("cpu", device):
        loss, memory = nearfar.losses.create("contrastive"), nearfar.CrossBatchMemory(40, device=held)
        for step in range(3):
            x = X.roll(step, 1).to(place).requires_grad_()
            loss(x, Y.to(place), ids=(torch.arange(16) + step).to(place), memory=memory).backward()
        again = nearfar.CrossBatchMemory(40, device=held)
        again.load_state_dict(memory.state_dict())
        assert x.grad is not None
        found.append(
            [
                x.grad,
                memory.drift,
                loss.eval()(x.detach(), Y.to(place), ids=torch.arange(16).to(place), memory=again),
            ]
        )
    assert {one.device.type for one in found[1]} == {device}
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(other.cpu(), one)


def test_autocast(device):
    loss, x = nearfar.losses.create("supcon"), X.to(device)
    with torch.autocast(device, torch.bfloat16):
        value = loss(x.bfloat16(), Y.to(device))
    assert value.dtype == torch.float32
    torch.testing.assert_close(value.cpu(), loss(X.bfloat16(), Y))


@pytest.mark.parametrize("backend", ["auto", "tiled"])
def test_what_is_not_finite(device, backend):
    loss, x = nearfar.losses.create("supcon", backend=backend), X.clone()
    x[3, 2] = torch.inf
    x = x.to(device).requires_grad_()
    value = loss(x, Y.to(device))
    value.backward()
    assert value.isnan()
    assert x.grad is not None
    assert x.grad.isnan().all()


def test_what_lies_elsewhere_is_refused(device):
    x, y = X.to(device), Y.to(device)
    supcon = nearfar.losses.create("supcon")
    for given in ((x, Y), (X, y), (x, y, X, Y), (x, y, x, Y)):
        with pytest.raises(NearfarError, match=r"on (cpu|pretend:0) but embeddings are on"):
            supcon(*given)
    with pytest.raises(NearfarError, match=r"on (cpu|pretend:0) but embeddings are on"):
        nearfar.losses.create("arcface", classes=4, dim=8)(x, y)


def test_notices_come_with_the_next_batch(device):
    loss, x = nearfar.losses.create("supcon"), X.to(device)
    loss(x, torch.arange(16).to(device))
    with pytest.warns(UserWarning, match="this batch has no positive pair"):
        loss(x, Y.to(device))
    arcface = nearfar.losses.create("arcface", classes=4, dim=8).to(device)
    assert arcface(x, (Y + 1).to(device)).isnan()
    with pytest.raises(NearfarError, match="label 4 of the last batch is not among the 4 classes"):
        arcface(x, Y.to(device))


def test_what_a_graph_finds_is_told_to_nobody(monkeypatch):
    """An event of a batch that is captured may not be asked whether it has come."""

    class OnCuda(torch.Tensor):
        device = torch.device("cuda")

    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    notices = Notices()
    notices.look_for_positives(torch.tensor(True).as_subclass(OnCuda), 4)
    assert notices._coming == []


PLAIN = [
    *(
        "binomial_deviance",
        "circle",
        "clip",
        "contrastive",
        "lifted_structure",
        "lifted_structure_generalized",
    ),
    *("margin", "multi_similarity", "nca", "npair", "npair_mined", "ntxent", "ranked_list", "siglip"),
    *("snr_contrastive", "supcon", "tuplet_margin"),
]
"""Losses that list no pairs."""
QUIET = [None, "easy", "easy_positive", "hard", "multi_similarity", "random", "relative", "top_k"]


@pytest.mark.parametrize("name", [*PLAIN, *PROXY_LOSSES])
def test_a_small_batch_waits_for_nothing(name, device):
    import pretend_device

    classes = {"classes": 4, "dim": 8} if name in PROXY_LOSSES else {}
    for rule in QUIET if name in PLAIN else [None]:
        loss = nearfar.losses.create(name, mining=rule, **classes).to(device)
        x, y = X.to(device), Y.to(device)
        loss(x, y)  # labels of classes move
        with pretend_device.waits() as found:
            loss(x.clone().requires_grad_(), y).backward()
        if name == "curricular_face":  # it looks at a number that runs over batches
            assert len(found) <= 1
        else:
            assert found == [], rule

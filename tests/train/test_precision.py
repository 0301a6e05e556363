"""Number format and device: what is chosen, and why."""

import pytest
import torch

from nearfar.errors import NearfarError
from nearfar.train import precision
from nearfar.train.precision import Numerics, choose_device, choose_numerics

CPU = torch.device("cpu")


def timed(float32: float, bfloat16: float) -> dict[str, float]:
    return {"float32": float32, "bfloat16": bfloat16}


@pytest.mark.parametrize(("half", "chosen"), [(0.5, "bfloat16"), (0.74, "bfloat16"), (0.76, "float32")])
def test_a_cpu_is_timed(monkeypatch: pytest.MonkeyPatch, half: float, chosen: str) -> None:
    monkeypatch.setattr(precision, "cpu_has_bfloat16", lambda: True)
    found = choose_numerics("auto", CPU, lambda numerics: timed(1.0, half)[numerics.precision])
    assert found.precision == chosen
    assert found.reason == f"a step takes 1.000 s in float32 and {half:.3f} s in bfloat16"


def test_a_busy_moment_does_not_decide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "cpu_has_bfloat16", lambda: True)
    times = iter([9.0, 0.9, 1.0, 0.9, 1.0, 0.9])
    assert choose_numerics("auto", CPU, lambda _: next(times)).precision == "float32"


def test_a_cpu_without_instructions_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "cpu_has_bfloat16", lambda: False)
    found = choose_numerics("auto", CPU, lambda _: pytest.fail("timed"))
    assert (found.precision, found.reason) == ("float32", "this cpu has no instructions for bfloat16")


@pytest.mark.parametrize("wanted", ["float32", "bfloat16"])
def test_what_is_asked_for_is_taken(wanted: str) -> None:
    assert choose_numerics(wanted, CPU, lambda _: pytest.fail("timed")).precision == wanted


def test_bfloat16_is_for_the_network_alone() -> None:
    layer = torch.nn.Linear(4, 4)
    with Numerics("bfloat16", True, "").autocast(CPU):
        assert layer(torch.ones(2, 4)).dtype == torch.bfloat16
    assert layer.weight.dtype == torch.float32
    with Numerics("float32", True, "").autocast(CPU):
        assert layer(torch.ones(2, 4)).dtype == torch.float32


def test_devices() -> None:
    assert choose_device("cpu") == CPU
    assert choose_device("auto").type in ("cpu", "cuda")
    with pytest.raises(
        NearfarError, match=r"^train\.device = 'cuda:99' is not there: this machine has .*; use 'cpu'"
    ):
        choose_device("cuda:99")

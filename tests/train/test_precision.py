"""Number format and device: what is chosen, and why."""

import itertools
import time
from pathlib import Path

import pytest
import torch
from torch import nn

from nearfar.config import Config
from nearfar.errors import NearfarError
from nearfar.train import precision, read_log, train
from nearfar.train.precision import Numerics, choose_device, choose_numerics
from stopped_runs import assert_same_weights

CPU = torch.device("cpu")


DENSE = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Linear(8, 8))
DEPTHWISE = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3, groups=8))


@pytest.mark.parametrize(
    ("vectors", "matrices", "network", "chosen", "reason"),
    [
        (False, False, DENSE, "float32", "this cpu has no instructions for bfloat16"),
        (True, False, DENSE, "float32", "this cpu has no matrix units for bfloat16"),
        (True, True, DENSE, "bfloat16", "this cpu has matrix units for bfloat16"),
        (True, True, DEPTHWISE, "float32", "convolutions in groups gain nothing from bfloat16 on a cpu"),
    ],
)
def test_a_cpu_is_judged_by_what_it_has_and_never_timed(
    monkeypatch: pytest.MonkeyPatch,
    vectors: bool,
    matrices: bool,
    network: nn.Module,
    chosen: str,
    reason: str,
) -> None:
    monkeypatch.setattr(precision, "cpu_has_bfloat16", lambda: vectors)
    monkeypatch.setattr(precision, "cpu_has_matrix_units", lambda: matrices)
    found = choose_numerics("auto", CPU, network)
    assert (found.precision, found.reason) == (chosen, reason)


@pytest.mark.parametrize("wanted", ["float32", "bfloat16"])
def test_what_is_asked_for_is_taken(wanted: str) -> None:
    found = choose_numerics(wanted, CPU, DENSE)
    assert (found.precision, found.reason) == (wanted, "train.precision asks for it")


def test_a_slow_clock_changes_no_run(config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same command on a machine that has everything, once with a clock that jumps."""
    monkeypatch.setattr(precision, "cpu_has_bfloat16", lambda: True)
    monkeypatch.setattr(precision, "cpu_has_matrix_units", lambda: True)
    whole = config.to_dict()
    auto = Config.model_validate({**whole, "train": {**whole["train"], "precision": "auto", "epochs": 1}})
    for name in ("steady", "jumping"):
        train(auto, tmp_path / name, progress=False)
        monkeypatch.setattr(time, "perf_counter", itertools.accumulate(itertools.cycle([9.0, 0.1])).__next__)
    told = [read_log(tmp_path / name / "log.jsonl")[0]["numerics"] for name in ("steady", "jumping")]
    assert told[0] == told[1]
    assert told[0]["precision"] == "bfloat16"
    assert_same_weights(tmp_path / "steady", tmp_path / "jumping")


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

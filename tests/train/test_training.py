"""A run from pictures to a model: what it writes, what it warns of, what it leaves alone."""

import random
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import nearfar
from nearfar.config import Config
from nearfar.errors import ConfigError
from nearfar.models import Embedder
from nearfar.train import RunResult, TrainingDiverged, loop, read_log, train
from nearfar.train.checkpoint import load_checkpoint
from nearfar.train.randomness import derive_seed, own_randomness, seed_everything
from nearfar.train.validate import Validation


@pytest.fixture(scope="module")
def run(config: Config, tmp_path_factory: pytest.TempPathFactory) -> tuple[Config, RunResult]:
    """One whole run, for the tests that only look at what it left."""
    config = with_changes(config, train={"epochs": 3})
    folder = tmp_path_factory.mktemp("runs") / "run"
    return config, train(config, folder, command="nearfar train pictures", progress=False)


def with_changes(config: Config, **sections: dict[str, Any]) -> Config:
    whole = config.to_dict()
    return Config.model_validate(
        {**whole, **{name: {**whole[name], **values} for name, values in sections.items()}}
    )


def test_the_folder(run: tuple[Config, RunResult]) -> None:
    config, result = run
    names = {path.name for path in result.folder.iterdir()}
    assert names == {"config.toml", "log.jsonl", "last", "best", "model"}
    assert Config.model_validate(tomllib.loads((result.folder / "config.toml").read_text())) == config
    assert not list(result.folder.rglob("*.tmp"))


def test_the_log(run: tuple[Config, RunResult]) -> None:
    _, result = run
    log = read_log(result.folder / "log.jsonl")
    assert [r["kind"] for r in log if r["kind"] != "step"] == ["start", *["validation"] * 3, "end"]
    steps = [r for r in log if r["kind"] == "step"]
    assert [r["step"] for r in steps] == list(range(1, 19))
    assert {*steps[0]} == {
        *("kind", "step", "epoch", "loss", "active", "positive_similarity", "negative_similarity", "spread"),
        *("gradient_norm", "lr", "head_lr", "images_per_second", "seconds"),
    }
    start = log[0]
    assert start["command"] == "nearfar train pictures"
    assert start["train"]["classes"] + start["validation"]["classes"] + start["test"]["classes"] == 12
    assert start["versions"]["nearfar"] == nearfar.__version__
    end = log[-1]
    assert (end["best_epoch"], end["validation"]) == (result.best_epoch, result.validation)


def test_the_best_epoch_is_that_of_the_highest_map_at_r(run: tuple[Config, RunResult]) -> None:
    _, result = run
    found = [r for r in read_log(result.folder / "log.jsonl") if r["kind"] == "validation"]
    scores = [r["map_at_r"] for r in found]
    assert result.best_epoch == max(i for i, score in enumerate(scores) if score == max(scores)) + 1
    assert result.validation["map_at_r"] == max(scores)
    best = max(index for index, r in enumerate(found) if r["best"])
    assert best + 1 == result.best_epoch


def test_of_equal_epochs_the_last_is_kept(
    config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = iter([0.9, 1.0, 1.0, 0.95])
    monkeypatch.setattr(loop, "validate", lambda *_: Validation(1.0, next(found), 0.0))
    result = train(with_changes(config, train={"epochs": 4}), tmp_path / "run", progress=False)
    assert result.best_epoch == 3
    assert load_checkpoint(tmp_path / "run" / "best")["epoch"] == 2


def test_the_model_is_the_best_checkpoint(run: tuple[Config, RunResult]) -> None:
    _, result = run
    model = nearfar.load(result.folder / "model")
    best = torch.load(result.folder / "best" / "checkpoint.pt", weights_only=True)
    assert best["epoch"] + 1 == result.best_epoch
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, best["embedder"][name]), name
    assert model.details["metrics"] == result.validation
    assert model.details["command"] == "nearfar train pictures"
    assert len(model.details["classes"]) == 4


def test_training_teaches(run: tuple[Config, RunResult], pictures: Path) -> None:
    steps = [r for r in read_log(run[1].folder / "log.jsonl") if r["kind"] == "step"]
    gap = [r["positive_similarity"] - r["negative_similarity"] for r in steps]
    assert np.mean(gap[-6:]) > np.mean(gap[:6]) + 0.1


def test_the_same_seed_gives_the_same_run(run: tuple[Config, RunResult], tmp_path: Path) -> None:
    config, result = run
    torch.manual_seed(3)
    state = torch.get_rng_state()
    train(config, tmp_path / "again", progress=False)
    assert torch.equal(torch.get_rng_state(), state)
    assert nearfar.load(tmp_path / "again").fingerprint() == nearfar.load(result.folder).fingerprint()


def test_the_generators_of_the_caller_are_left_alone() -> None:
    def draw() -> tuple[float, float, float]:
        return torch.rand(()).item(), float(np.random.rand()), random.random()  # noqa: NPY002

    seed_everything(5)
    expected = draw()
    seed_everything(5)
    with own_randomness():
        seed_everything(6)
        assert draw() != expected
    assert draw() == expected


def test_another_seed_gives_another_run(run: tuple[Config, RunResult], tmp_path: Path) -> None:
    config = with_changes(run[0], train={"seed": 2})
    train(config, tmp_path / "other", progress=False)
    assert nearfar.load(tmp_path / "other").fingerprint() != nearfar.load(run[1].folder).fingerprint()


def test_without_validation_the_last_epoch_is_kept(config: Config, tmp_path: Path) -> None:
    result = train(with_changes(config, train={"validate_on": "none"}), tmp_path / "run", progress=False)
    assert (result.best_epoch, result.validation) == (2, {})
    last = torch.load(tmp_path / "run" / "last" / "checkpoint.pt", weights_only=True)["embedder"]
    model = nearfar.load(tmp_path / "run").state_dict()
    assert all(torch.equal(model[name], last[name]) for name in model)


def test_a_length_in_steps_may_end_within_an_epoch(
    config: Config, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    optimizer = {"warmup_epochs": 0.0, "schedule": "multistep", "step_values": [3, 7], "gamma": 0.5}
    changed = with_changes(config, train={"steps": 8, "epochs": 1}, optimizer=optimizer)
    assert train(changed, tmp_path / "run", dry_run=True).plan.epochs == 2
    train(changed, tmp_path / "run")
    assert "step 1/8 " in capsys.readouterr().err
    log = read_log(tmp_path / "run" / "log.jsonl")
    steps = [r for r in log if r["kind"] == "step"]
    assert [(r["step"], r["epoch"]) for r in steps] == [(t + 1, t // 6) for t in range(8)]
    rates = [0.003 * 0.5 ** ((t >= 3) + (t >= 7)) for t in range(8)]
    assert [r["lr"] for r in steps] == pytest.approx(rates)
    checks = [(r["step"], r["epoch"]) for r in log if r["kind"] == "validation"]
    assert checks == [(6, 0), (8, 1)]
    assert log[0]["steps"] == 8
    train(changed, tmp_path / "run", resume=True)
    assert "is finished: all 8 steps are done." in capsys.readouterr().err


def test_a_length_in_whole_epochs_is_the_same_run(config: Config, tmp_path: Path) -> None:
    train(with_changes(config, train={"steps": 12, "epochs": 99}), tmp_path / "steps", progress=False)
    train(config, tmp_path / "epochs", progress=False)
    found = [nearfar.load(tmp_path / name).fingerprint() for name in ("steps", "epochs")]
    assert found[0] == found[1]


def test_a_run_shorter_than_an_epoch_with_workers(config: Config, tmp_path: Path) -> None:
    changed = with_changes(
        config, train={"steps": 2, "validate_on": "none"}, data={"workers": 1, "memory_limit": "0B"}
    )
    assert train(changed, tmp_path / "run", progress=False).best_epoch == 1
    assert nearfar.load(tmp_path / "run").details["metrics"] == {}


def test_steps_that_leave_nothing_for_the_backbone(config: Config, tmp_path: Path) -> None:
    changed = with_changes(config, train={"steps": 6}, optimizer={"head_only_epochs": 1})
    message = r"head_only_epochs = 1 are 6 steps and leave nothing of train\.steps = 6; set it lower\."
    with pytest.raises(ConfigError, match=message):
        train(changed, tmp_path / "run", progress=False)
    assert not (tmp_path / "run").exists()


def test_bfloat16_trains_float32_weights(config: Config, tmp_path: Path) -> None:
    changed = with_changes(
        config, train={"precision": "bfloat16", "epochs": 1}, optimizer={"clip_norm": 0.01}
    )
    train(changed, tmp_path / "run", progress=False)
    state = torch.load(tmp_path / "run" / "last" / "checkpoint.pt", weights_only=True)
    assert state["numerics"]["precision"] == "bfloat16"
    assert {t.dtype for t in state["embedder"].values() if t.is_floating_point()} == {torch.float32}


def test_auto_precision_is_logged_with_its_reason(config: Config, tmp_path: Path) -> None:
    train(with_changes(config, train={"precision": "auto", "epochs": 1}), tmp_path / "run", progress=False)
    numerics = read_log(tmp_path / "run" / "log.jsonl")[0]["numerics"]
    assert numerics["precision"] in ("float32", "bfloat16")
    assert numerics["reason"]


class Look:
    """A tracker that keeps what it is told and looks at a module when an epoch was validated."""

    def __init__(self, module: nn.Module) -> None:
        self.module, self.calls, self.states = module, [], []

    def start(self, config: Mapping[str, Any], step: int) -> None:
        self.calls.append(("start", step))

    def log(self, record: Mapping[str, Any]) -> None:
        if record["kind"] == "validation":
            self.states.append({name: t.clone() for name, t in self.module.state_dict().items()})

    def file(self, path: Path) -> None:
        self.calls.append(("file", path.name))

    def finish(self) -> None:
        self.calls.append(("finish",))


def test_the_backbone_rests_while_the_head_learns(config: Config, tmp_path: Path) -> None:
    embedder = Embedder("nearfar/small", pretrained=False, dim=16, size=32)
    before = {name: t.clone() for name, t in embedder.state_dict().items()}
    look = Look(embedder)
    changed = with_changes(config, optimizer={"head_only_epochs": 1})
    train(changed, tmp_path / "run", progress=False, embedder=embedder, trackers=[look])
    first, second = look.states
    for name, tensor in before.items():
        if name.startswith("backbone."):
            assert torch.equal(first[name], tensor), name
            assert not torch.equal(second[name], tensor), name
        else:
            assert not torch.equal(first[name], tensor), name
    assert look.calls == [("start", 0), ("file", "model"), ("finish",)]


class Alike(nn.Module):
    """A backbone that makes all images nearly alike."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 4)

    def forward(self, images: Tensor) -> Tensor:
        return 1.0 + 1e-3 * self.layer(images.mean((2, 3)))


def test_collapse_is_told(config: Config, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    embedder = Embedder(Alike(), head="none", size=32)
    loss = {"name": "triplet", "margin": 0.2}
    train(with_changes(config, loss=loss, train={"epochs": 5}), tmp_path / "run", embedder=embedder)
    warnings = [r for r in read_log(tmp_path / "run" / "log.jsonl") if r["kind"] == "warning"]
    told = {r["text"]: r["step"] for r in warnings}
    collapse, margin = (
        next(text for text in told if text.startswith(words))
        for words in (
            "all embeddings are nearly alike (spread ",
            "the loss (0.2) stands at its margin (0.2): ",
        )
    )
    assert (told[collapse], told[margin]) == (10, 25)
    assert "warning: all embeddings are nearly alike" in capsys.readouterr().err


def test_divergence_stops_and_keeps_the_checkpoint(config: Config, tmp_path: Path) -> None:
    schedule = {"name": "sgd", "lr": 1.0, "head_lr": 1e38, "warmup_epochs": 0.0, "schedule": "constant"}
    with pytest.raises(TrainingDiverged, match=r"not finite at step \d+, .* the last checkpoint is intact\."):
        train(with_changes(config, optimizer=schedule), tmp_path / "run", progress=False)


def test_dry_run_tells_the_cost_and_writes_nothing(
    config: Config, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    embedder = Embedder("nearfar/small", pretrained=False, dim=16, size=32)
    before = embedder.fingerprint()
    result = train(config, tmp_path / "run", dry_run=True, embedder=embedder)
    assert not (tmp_path / "run").exists()
    assert embedder.fingerprint() == before
    found = result.plan
    assert found is not None
    assert (found.batch, found.embedding) == ((6, 3, 32, 32), (6, 16))
    assert found.train == (28, 4)
    assert (found.steps_per_epoch, found.steps, found.epochs) == (6, 12, 2)
    size = 4 * sum(p.numel() for p in embedder.parameters())
    assert (found.memory["weights"], found.memory["gradients"], found.memory["optimiser"]) == (
        size,
        size,
        2 * size,
    )
    assert found.memory["activations"] > 6 * 3 * 32 * 32 * 4
    shown = capsys.readouterr().err
    assert "batch       [6, 3, 32, 32] -> embeddings [6, 16]" in shown
    assert " an epoch of 6 steps, " in shown
    assert " for 12 steps (2 epochs)" in shown
    assert "nothing was written." in shown
    assert set(found.beside) == {"reading", "validation", "the report"}
    assert all(seconds > 0 for seconds in found.beside.values())
    assert found.seconds == pytest.approx(12 * found.step_seconds + sum(found.beside.values()))
    assert "(half of what is free, " in shown
    assert " for validation, " in shown


def test_few_classes_are_told(config: Config, caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    train(config, tmp_path / "run", dry_run=True, progress=False)
    assert "training learns from 4 classes alone" in caplog.text
    assert "(none with train.validate_on = 'none')" in caplog.text


def test_a_memory_that_is_never_used_or_has_no_room(config: Config, tmp_path: Path) -> None:
    for memory, message in (
        ({"size": 50, "start_after": 12}, r"memory\.start_after = 12 is beyond the run of 12 steps"),
        ({"size": 10**12}, r"memory\.size = 10{12} embeddings of 16 numbers are [\d,.]+ GB, and"),
    ):
        with pytest.raises(ConfigError, match=message):
            train(with_changes(config, memory=memory), tmp_path / "run", progress=False)
        assert not (tmp_path / "run").exists()


def test_a_loss_setting_is_checked_before_anything_is_written(config: Config, tmp_path: Path) -> None:
    bad = config.model_copy(update={"loss": type(config.loss).model_validate({"bata": 3})})
    with pytest.raises(ConfigError, match=r"unknown key 'loss\.bata'\. Did you mean 'loss\.beta'\?"):
        train(bad, tmp_path / "run", progress=False)
    assert not (tmp_path / "run").exists()


def test_plain_lines_where_there_is_no_terminal(
    config: Config, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train(with_changes(config, train={"epochs": 1}), tmp_path / "run")
    shown = capsys.readouterr().err.splitlines()
    assert shown[0].startswith("28 images of 4 classes, seen at 32 px, ")
    assert shown[1].startswith("step 1/6  epoch 1  loss ")
    assert shown[1].endswith(" left")
    assert shown[2].startswith("epoch 1: recall@1 ")
    assert shown[-1].startswith("finished in ")
    assert shown[-1].endswith(f" s; the model is in {tmp_path / 'run' / 'model'}")


def test_seeds_depend_on_every_number_and_their_order() -> None:
    seeds = {derive_seed(*numbers) for numbers in [(1, 2, 3), (3, 2, 1), (1, 2), (12, 3), (1, 23), (1, 2, 4)]}
    assert len(seeds) == 6
    assert all(0 <= seed < 2**63 for seed in seeds)

"""An epoch follows an epoch without being asked for, in bare loops, loaders and other people's engines."""

import itertools

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset

import nearfar.offline  # noqa: F401 (adds its sampler)
from nearfar.data import Share, create_sampler

LABELS = np.repeat(np.arange(12), 6)
SETTINGS = {
    "pk": {},
    "balanced": {},
    "hierarchical": {"super_classes": {c: c // 4 for c in range(12)}},
    "hard_classes": {},
    "offline": {},
}


def make(name: str, shared: bool = False):
    sampler = create_sampler(name, LABELS, 4, 3, seed=5, **SETTINGS[name])
    return Share(sampler) if shared else sampler


def asked_for(name: str, epochs: int) -> list[list[list[int]]]:
    """The batches of each epoch, jumped to in a sampler of its own."""
    found = []
    for epoch in range(epochs):
        sampler = make(name)
        sampler.set_epoch(epoch)
        found.append([list(batch) for batch in sampler])
    return found


class Rows(Dataset):
    """Gives the number of the row that is asked for."""

    def __len__(self) -> int:
        return len(LABELS)

    def __getitem__(self, row: int) -> int:
        return row


every = pytest.mark.parametrize("name", SETTINGS)


@every
@pytest.mark.parametrize(
    ("shared", "workers"), [(False, None), (True, None), (False, 0), (True, 0), (False, 1)]
)
def test_an_epoch_follows_an_epoch(name: str, shared: bool, workers: int | None) -> None:
    sampler = make(name, shared)
    loader = sampler if workers is None else DataLoader(Rows(), batch_sampler=sampler, num_workers=workers)
    found = [[torch.as_tensor(batch).tolist() for batch in loader] for _ in range(3)]
    assert found == asked_for(name, 3)
    assert found[0] != found[1] != found[2]


def test_workers_that_stay() -> None:
    loader = DataLoader(Rows(), batch_sampler=make("pk"), num_workers=1, persistent_workers=True)
    assert [[batch.tolist() for batch in loader] for _ in range(3)] == asked_for("pk", 3)


@every
def test_to_set_the_epoch_is_to_jump(name: str) -> None:
    sampler, epochs = make(name), asked_for(name, 5)
    assert list(sampler) == epochs[0]
    sampler.set_epoch(0)
    assert list(sampler) == epochs[0]
    sampler.set_epoch(3)
    sampler.set_epoch(3)
    assert list(sampler) == epochs[3]
    assert list(sampler) == epochs[4]


@every
def test_an_iteration_left_early_is_over(name: str) -> None:
    sampler, epochs = make(name), asked_for(name, 3)
    assert list(itertools.islice(sampler, 2)) == epochs[0][:2]
    assert list(sampler) == epochs[1]
    next(iter(sampler))
    sampler.set_epoch(2)
    assert list(sampler) == epochs[2]


@every
def test_an_iterator_that_nobody_asked_for_a_batch_counts_as_none(name: str) -> None:
    sampler = make(name)
    iter(sampler)
    assert list(sampler) == asked_for(name, 1)[0]


@every
@pytest.mark.parametrize("taken", [0, 2, "all"])
def test_a_restored_sampler_goes_on_and_then_to_the_next_epoch(name: str, taken: int | str) -> None:
    epochs = asked_for(name, 3)
    taken = len(epochs[1]) if taken == "all" else taken
    begun, resumed = make(name), make(name)
    begun.set_epoch(1)
    list(itertools.islice(begun, taken))
    resumed.load_state_dict(begun.state_dict() | {"epoch": 1, "position": taken})
    rest = [epochs[1][taken:]] if taken < len(epochs[1]) else []
    for expected in [*rest, epochs[2]]:
        assert list(resumed) == expected


@pytest.mark.parametrize("name", ["pk", "balanced", "hierarchical"])
def test_two_iterations_at_once_are_two_epochs(name: str) -> None:
    sampler = make(name)
    pairs = list(zip(sampler, sampler, strict=True))
    assert [[list(one) for one in each] for each in zip(*pairs, strict=True)] == asked_for(name, 2)


class Seen(torch.nn.Module):
    """Notes the rows of each step."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(()))
        self.rows: list[list[int]] = []

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        self.rows.append(rows.tolist())
        return self.weight * rows.sum()


@pytest.mark.parametrize(("name", "shared"), [("pk", True), *((name, False) for name in SETTINGS)])
@pytest.mark.filterwarnings("ignore")
def test_lightning(name: str, shared: bool, tmp_path) -> None:
    lightning = pytest.importorskip("lightning")

    class Learner(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.seen = Seen()

        def training_step(self, rows: torch.Tensor, step: int) -> torch.Tensor:
            return self.seen(rows)

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), lr=0.0)

    def fit(**settings: object) -> list[list[int]]:
        learner = Learner()
        trainer = lightning.Trainer(
            accelerator="cpu",
            devices=1,
            max_epochs=3,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            use_distributed_sampler=False,
            default_root_dir=tmp_path,
            **settings,
        )
        trainer.fit(learner, DataLoader(Rows(), batch_sampler=make(name, shared)))
        return learner.seen.rows

    epochs = asked_for(name, 3)
    assert fit() == [batch for epoch in epochs for batch in epoch]
    assert fit(limit_train_batches=2) == [batch for epoch in epochs for batch in epoch[:2]]


@every
@pytest.mark.filterwarnings("ignore")
def test_accelerate(name: str) -> None:
    accelerate = pytest.importorskip("accelerate")
    accelerator = accelerate.Accelerator(cpu=True)
    loader = accelerator.prepare(DataLoader(Rows(), batch_sampler=make(name)))
    assert [[batch.tolist() for batch in loader] for _ in range(3)] == asked_for(name, 3)

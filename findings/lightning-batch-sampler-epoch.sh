#!/usr/bin/env bash
# lightning 2.6.6: a batch sampler's own set_epoch is never called; every epoch has the same batches.
#
# Expected: a batch_sampler that draws P classes with K pictures each from a seed and the epoch, with
# set_epoch as in DistributedSampler, gets the epoch from the Trainer, as a `sampler` does (and as
# accelerate 1.15.0 does it).
# Seen: set_epoch is called on loader.sampler and loader.batch_sampler.sampler only. Three epochs are three
# times the same batches, without a word. With a property `sampler` that returns the batch sampler itself it
# is called.
# nearfar: its samplers go on to the next epoch by themselves, have that property, and
# `set_epoch` only jumps.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet \
  lightning==2.6.6 accelerate==1.15.0 torch==2.13.0 numpy==2.4.6
cd "$folder"
code=0
"$folder/venv/bin/python" - 2>"$folder/said" <<'PYTHON' || code=$?
import sys

import accelerate
import lightning
import torch
from torch.utils.data import DataLoader, TensorDataset

print(f"lightning {lightning.__version__}, accelerate {accelerate.__version__}, torch {torch.__version__}")
LABELS = torch.arange(8).repeat_interleave(4)


class ClassBatches:
    """Two batches an epoch, of 2 classes with 2 rows each, from the epoch alone."""

    batch_size, drop_last = 4, True

    def __init__(self):
        self.epoch, self.calls = 0, []

    def set_epoch(self, epoch):
        self.epoch = epoch
        self.calls.append(epoch)

    def __len__(self):
        return 2

    def __iter__(self):
        random = torch.Generator().manual_seed(self.epoch)
        for _ in range(2):
            classes = torch.randperm(8, generator=random)[:2]
            rows = [(LABELS == c).nonzero()[torch.randperm(4, generator=random)[:2], 0] for c in classes]
            yield torch.cat(rows).tolist()


class WithSampler(ClassBatches):
    @property
    def sampler(self):
        return self


class Network(lightning.LightningModule):
    def __init__(self):
        super().__init__()
        self.layer, self.seen = torch.nn.Linear(1, 1), []

    def training_step(self, batch, place):
        self.seen.append(batch[0].flatten().int().tolist())
        return self.layer(batch[0]).mean()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def loader(sampler):
    return DataLoader(TensorDataset(torch.arange(32.0)[:, None]), batch_sampler=sampler)


def in_lightning(sampler):
    network = Network()
    trainer = lightning.Trainer(
        accelerator="cpu",
        devices=1,
        max_epochs=3,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(network, loader(sampler))
    return [network.seen[i : i + 2] for i in (0, 2, 4)]


def in_accelerate(sampler):
    prepared = accelerate.Accelerator(cpu=True).prepare(loader(sampler))
    return [[rows.flatten().int().tolist() for (rows,) in prepared] for _ in range(3)]


different = []
for name, run, kind in (
    ("lightning", in_lightning, ClassBatches),
    ("lightning, with the property", in_lightning, WithSampler),
    ("accelerate", in_accelerate, ClassBatches),
):
    sampler = kind()
    epochs = run(sampler)
    different.append(len({str(epoch) for epoch in epochs}))
    print(f"{name}: set_epoch called with {sampler.calls}, {different[-1]} different epochs of 3")
    for number, epoch in enumerate(epochs):
        print(f"  epoch {number}: rows {epoch}")

if different != [1, 3, 3]:
    sys.exit("changed: a batch sampler's set_epoch is no longer left out in lightning alone")
PYTHON
if [ "$code" != 0 ]; then
  tail -n 5 "$folder/said"
fi
exit "$code"

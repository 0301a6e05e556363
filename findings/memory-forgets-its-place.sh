#!/usr/bin/env bash
# pytorch-metric-learning 2.9.0: a CrossBatchMemory from a checkpoint takes itself for empty.
#
# Expected: after load_state_dict the memory goes on as the one that was saved: all its rows are compared
# with, and the next batch replaces the oldest.
# Seen: rows and labels come back, but not queue_idx (8 -> 0) nor has_been_filled (True -> False). With 32
# rows in place the next batch of 8 meets 8 rows in place of 32 (the loss is another), and replaces the
# newest in place of the oldest. Nothing is said: the keys of the state match.
# nearfar: where the next row goes and how many have been added are part of the memory's
# `state_dict`, so a resumed run goes on as if it had not stopped.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet \
  pytorch-metric-learning==2.9.0 torch==2.13.0 numpy==2.4.6 scikit-learn==1.9.1
"$folder/venv/bin/python" - <<'PYTHON'
import copy
import sys

import pytorch_metric_learning
import torch
from pytorch_metric_learning.losses import ContrastiveLoss, CrossBatchMemory

print(f"pytorch-metric-learning {pytorch_metric_learning.__version__}, torch {torch.__version__}")
torch.manual_seed(0)


def batch():
    return torch.randn(8, 4), torch.randint(0, 3, (8,))


def memory():
    return CrossBatchMemory(ContrastiveLoss(), embedding_size=4, memory_size=32)


def place(one):
    return one.queue_idx, one.has_been_filled


saved = memory()
for _ in range(5):  # 40 rows: the memory is full, rows 0 ... 7 are the newest, 8 ... 15 the oldest
    saved(*batch())
restored = memory()
print("load_state_dict:", restored.load_state_dict(copy.deepcopy(saved.state_dict())))
print("queue_idx and has_been_filled:", place(saved), "saved,", place(restored), "restored")
as_described = torch.equal(saved.embedding_memory, restored.embedding_memory)
as_described &= place(saved) == (8, True) and place(restored) == (0, False)

embeddings, labels = batch()
losses, replaced = [], []
for one in (saved, restored):
    before = one.embedding_memory.clone()
    losses.append(one(embeddings, labels).item())
    replaced.append((one.embedding_memory != before).any(1).nonzero().flatten().tolist())
print(f"loss of the next batch: {losses[0]:.4f} had it gone on, {losses[1]:.4f} restored")
print(f"rows that it replaced: {replaced[0]} had it gone on, {replaced[1]} restored")

as_described &= losses[0] != losses[1] and replaced == [list(range(8, 16)), list(range(8))]
if not as_described:
    sys.exit("changed: a restored memory now goes on in its place")
PYTHON

#!/usr/bin/env bash
# torch 2.13.0, CPU: the gradient of x[index] with repeated places differs from run to run, seed or no seed.
#
# Expected: on a CPU the same seed gives the same bits; losses that take pairs or triplets as
# embeddings[anchor] and embeddings[other] train the same network twice.
# Seen: with two threads, 30 backward passes over the same float32 tensors give several different gradients
# (6 to 30 in four runs, up to 3e-05 apart): threads add the repeats up in the order in which they come.
# index_select, one thread, float64 and torch.use_deterministic_algorithms(True) give one each.
# nearfar: places that may repeat are taken with `index_select`, whose gradient is the same each time.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet torch==2.13.0 numpy==2.4.6
"$folder/venv/bin/python" - <<'PYTHON'
import sys

import torch

print(f"torch {torch.__version__}")
torch.manual_seed(0)
ROWS = 128
anchor = torch.arange(ROWS).repeat(ROWS)  # each row is an anchor 128 times
weight = torch.randn(len(anchor), 64, dtype=torch.float64)
embeddings = torch.randn(ROWS, 64, dtype=torch.float64)


def gradients(take, dtype=torch.float32, threads=2, passes=30, deterministic=False):
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(deterministic)
    x, w = embeddings.to(dtype).requires_grad_(), weight.to(dtype)
    seen = [torch.autograd.grad((take(x) * w).sum(), x)[0] for _ in range(passes)]
    torch.use_deterministic_algorithms(False)
    apart = max(float((one - seen[0]).abs().max()) for one in seen)
    return len({one.numpy().tobytes() for one in seen}), apart


def indexed(x):
    return x[anchor]


def selected(x):
    return x.index_select(0, anchor)


for _ in range(10):  # two threads that never met have told nothing
    number, apart = gradients(indexed)
    if number > 1:
        break
print(f"x[index]: {number} different gradients of 30, up to {apart:.1e} apart")
others = {
    "index_select": gradients(selected)[0],
    "x[index], one thread": gradients(indexed, threads=1)[0],
    "x[index], float64": gradients(indexed, dtype=torch.float64)[0],
    "x[index], use_deterministic_algorithms": gradients(indexed, deterministic=True)[0],
}
for name, count in others.items():
    print(f"{name}: {count}")

if number == 1 or any(count > 1 for count in others.values()):
    sys.exit("changed: x[index] and the others no longer differ as described")
PYTHON

#!/usr/bin/env bash
# torch 2.13.0: an exponential average with buffers rewrites whole-number buffers that never changed.
#
# Expected: AveragedModel(use_buffers=True, multi_avg_fn=get_ema_multi_avg_fn(...)) of a model that stays as
# it is stays equal to it; a buffer of class labels (which row of a proxy loss is which class) above all.
# Seen: after 20 updates of an unchanged model float buffers are as they were to rounding, but 28 of the
# labels 0 ... 99 are others at decay 0.9 (3 is now 2), and of 100 labels from 10**8 on 87 or more at any
# decay: an update takes decay * x + (1 - decay) * x in float32 and cuts it to a whole number. No warning.
# nearfar: class labels of a loss and rows and ids of a memory are no buffers; they are attributes that
# `state_dict` has under the same name, which no average of weights touches.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet torch==2.13.0 numpy==2.4.6
"$folder/venv/bin/python" - <<'PYTHON'
import sys

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

print(f"torch {torch.__version__}")


class Proxies(nn.Module):
    def __init__(self, labels):
        super().__init__()
        self.proxies = nn.Parameter(torch.ones(len(labels), 2))
        self.register_buffer("labels", labels)
        self.register_buffer("mean", torch.full((3,), 0.7))


def averaged(labels, **how):
    model = Proxies(labels)
    average = AveragedModel(model, use_buffers=True, **how)
    for _ in range(20):
        average.update_parameters(model)
    if not torch.allclose(average.module.mean, model.mean):
        sys.exit("changed: the average of a float buffer is off too")
    return average.module.labels


changed = {}
for name, labels in (("0 ... 99", torch.arange(100)), ("100000000 ... 100000099", torch.arange(100) + 10**8)):
    for decay in (0.9, 0.99, 0.999):
        after = averaged(labels, multi_avg_fn=get_ema_multi_avg_fn(decay))
        changed[name, decay] = int((after != labels).sum())
        pairs = [f"{a} -> {b}" for a, b in zip(labels.tolist(), after.tolist(), strict=True) if a != b]
        print(f"labels {name}, decay {decay}: {changed[name, decay]} of 100 changed", *pairs[:3])
plain = int((averaged(torch.arange(100)) != torch.arange(100)).sum())
print(f"labels 0 ... 99, plain mean: {plain} of 100 changed")

if not changed["0 ... 99", 0.9] or not changed["100000000 ... 100000099", 0.999]:
    sys.exit("changed: whole-number buffers now stay as they are")
PYTHON

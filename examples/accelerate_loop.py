"""A nearfar loss with Accelerate, in one process or in several; pip install accelerate.

python examples/accelerate_loop.py
torchrun --nproc-per-node 2 examples/accelerate_loop.py
"""

import torch
from accelerate import Accelerator
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import nearfar
from nearfar.data import Share, create_sampler

torch.manual_seed(0)
labels = torch.arange(16).repeat_interleave(20)
vectors = torch.randn(16, 64)[labels] + 1.5 * torch.randn(len(labels), 64)
unseen_labels = torch.arange(16).repeat_interleave(8)
unseen = torch.randn(16, 64)[unseen_labels] + 1.5 * torch.randn(len(unseen_labels), 64)


class Learner(nn.Module):
    """Network and loss in one module: its gradients are averaged over the ranks."""

    def __init__(self) -> None:
        super().__init__()
        self.network = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 32))
        self.loss = nearfar.losses.create("proxy_anchor", classes=labels, dim=32)

    def forward(self, rows: torch.Tensor, own_labels: torch.Tensor) -> torch.Tensor:
        return self.loss(self.network(rows), own_labels)  # the loss of the whole batch, on every rank


accelerator = Accelerator(cpu=True)
share = Share(create_sampler("pk", labels.numpy(), 8, 4))  # every rank draws the same and takes its rows
loader = DataLoader(TensorDataset(vectors, labels, torch.arange(len(labels))), batch_sampler=share)
learner = Learner()
optimizer = torch.optim.AdamW(learner.parameters(), lr=1e-2)
wrapped, optimizer = accelerator.prepare(learner, optimizer)  # not the loader, which is shared out already

before = nearfar.evaluate.retrieval(learner.network(unseen).detach(), unseen_labels)
for _ in range(20):
    for rows, own_labels, ids in loader:
        share.check(ids)  # the ranks' rows are the batch, so nobody shared it out once more
        value = wrapped(rows, own_labels)
        optimizer.zero_grad()
        accelerator.backward(value)
        optimizer.step()
after = nearfar.evaluate.retrieval(learner.network(unseen).detach(), unseen_labels)
if accelerator.is_main_process:
    for when, result in (("before", before), ("after", after)):
        print(f"Recall@1 on unseen classes {when}: {100 * result.recall_at_k[1]:.2f} %")
accelerator.end_training()

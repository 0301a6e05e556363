"""A nearfar loss in Lightning, in one process or in several; pip install lightning.

python examples/lightning_loop.py
torchrun --nproc-per-node 2 examples/lightning_loop.py
"""

import os

import lightning
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import nearfar
from nearfar.data import Share, create_sampler

torch.manual_seed(0)
labels = torch.arange(16).repeat_interleave(20)
vectors = torch.randn(16, 64)[labels] + 1.5 * torch.randn(len(labels), 64)
unseen_labels = torch.arange(16).repeat_interleave(8)
unseen = torch.randn(16, 64)[unseen_labels] + 1.5 * torch.randn(len(unseen_labels), 64)


class Learner(lightning.LightningModule):
    """Network and loss in one module: Lightning averages the gradients of both over the ranks."""

    def __init__(self, share: Share) -> None:
        super().__init__()
        self.share = share
        self.network = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 32))
        self.loss = nearfar.losses.create("proxy_anchor", classes=labels, dim=32)

    def training_step(self, batch: list[torch.Tensor], step: int) -> torch.Tensor:
        rows, own_labels, ids = batch
        if step == 0:
            self.share.check(ids)  # the ranks' rows are the batch, so nobody shared it out once more
        return self.loss(self.network(rows), own_labels)  # the loss of the whole batch, on every rank

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=1e-2)


share = Share(create_sampler("pk", labels.numpy(), 8, 4))  # every rank draws the same and takes its rows
loader = DataLoader(TensorDataset(vectors, labels, torch.arange(len(labels))), batch_sampler=share)
learner = Learner(share)
ranks = int(os.environ.get("WORLD_SIZE", "1"))
trainer = lightning.Trainer(
    accelerator="cpu",
    devices=ranks,
    strategy="ddp" if ranks > 1 else "auto",
    use_distributed_sampler=False,  # the batches are shared out already
    max_epochs=20,
    logger=False,
    enable_checkpointing=False,
    enable_progress_bar=False,
    enable_model_summary=False,
)
before = nearfar.evaluate.retrieval(learner.network(unseen).detach(), unseen_labels)
trainer.fit(learner, loader)
after = nearfar.evaluate.retrieval(learner.network(unseen).detach(), unseen_labels)
if trainer.is_global_zero:
    for when, result in (("before", before), ("after", after)):
        print(f"Recall@1 on unseen classes {when}: {100 * result.recall_at_k[1]:.2f} %")

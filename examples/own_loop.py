"""A nearfar loss in a loop of your own: any network, any optimiser.

python examples/own_loop.py
"""

import torch
from torch import nn

import nearfar

generator = torch.Generator().manual_seed(0)
centres = torch.randn(32, 64, generator=generator)


def batch(classes: torch.Tensor, per_class: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return noisy vectors of the classes given, four of each, and their labels."""
    labels = classes.repeat_interleave(per_class)
    return centres[labels] + 1.5 * torch.randn(len(labels), 64, generator=generator), labels


torch.manual_seed(0)
network = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 32))
loss = nearfar.losses.create("multi_similarity", mining="multi_similarity")
optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3)

unseen = batch(torch.arange(16, 32), 8)
before = nearfar.evaluate.retrieval(network(unseen[0]).detach(), unseen[1])
for step in range(200):
    vectors, labels = batch(torch.randperm(16, generator=generator)[:8], 4)
    value = loss(network(vectors), labels)
    optimizer.zero_grad()
    value.backward()
    optimizer.step()
    if step % 50 == 0:
        print(f"step {step:3}  loss {value.item():.3f}  active {100 * loss.last.active:.0f} %")

after = nearfar.evaluate.retrieval(network(unseen[0]).detach(), unseen[1])
for when, result in (("before", before), ("after", after)):
    print(f"Recall@1 on unseen classes {when}: {100 * result.recall_at_k[1]:.1f} %")

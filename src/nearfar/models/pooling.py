"""Pool a map of features into one vector."""

import math
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import threshold

from nearfar.errors import ConfigError, suggest

PoolingName = Literal["avg", "max", "avg+max", "gem"]
NAMES: list[str] = ["avg", "max", "avg+max", "gem"]


def create_pooling(name: str) -> nn.Module:
    """Return the pooling of this name; each maps ``[n, features, h, w]`` to float32 ``[n, features]``.

    Raises:
        ConfigError: if there is none.
    """
    if name not in NAMES:
        raise ConfigError(
            f"unknown pooling '{name}'; expected one of {', '.join(NAMES)}.{suggest(name, NAMES)}"
        )
    return GeneralizedMean() if name == "gem" else Pooling(name)


class Pooling(nn.Module):
    """Mean, maximum or the sum of both."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name

    def forward(self, maps: Float[Tensor, "n features h w"]) -> Float[Tensor, "n features"]:
        """Pool over the places, in float32."""
        maps = maps.float()
        if self.name == "avg":
            return maps.mean((2, 3))
        largest = maps.flatten(2).max(2).values  # one place gets the gradient; amax shares it among ties
        return largest if self.name == "max" else largest + maps.mean((2, 3))

    def extra_repr(self) -> str:
        return repr(self.name)


class GeneralizedMean(nn.Module):
    """Generalized mean: (mean of x^p)^(1/p), with a learned p; the mean at p = 1, near the maximum at a large
    p.

    Reference:
        Radenović et al., TPAMI 2018, eq. 3. https://arxiv.org/abs/1711.02512
    """

    def __init__(self, power: float = 3.0, least: float = 1e-6) -> None:
        super().__init__()
        self.power = nn.Parameter(torch.tensor(power))
        self.least = least

    def forward(self, maps: Float[Tensor, "n features h w"]) -> Float[Tensor, "n features"]:
        """Pool over the places, in float32; values below ``least`` count as ``least``."""
        power = self.power.float()
        power = power.masked_fill(power < 1, 1.0).masked_fill(power > 16, 16.0)  # at its ends it still learns
        # exp(logsumexp(p log x) / p): x^p itself leaves the range of float32.
        logs = power * threshold(maps.float(), self.least, self.least).log().flatten(2)
        return torch.exp((torch.logsumexp(logs, dim=2) - math.log(logs.shape[2])) / power)

    def extra_repr(self) -> str:
        return f"power={self.power.item():.3g}"

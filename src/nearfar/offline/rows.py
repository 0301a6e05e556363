"""What offline mining is given: finite rows that float32 can square, and one class for each."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from nearfar.errors import NearfarError
from nearfar.evaluate.labels import labelled
from nearfar.evaluate.rows import as_rows
from nearfar.inputs import check_embeddings, check_whole_numbers

_SQUARABLE = 1e17  # squares of rows from 1 / this to this, and sums of them, are float32 numbers


def checked(
    embeddings: Float[Tensor, "n dim"], labels: Int[Tensor, " n"], similarity: str, unlabelled: int | None
) -> tuple[Float[Tensor, "kept dim"], Int[Tensor, " kept"], Int[Tensor, " kept"]]:
    """Return the rows that have a label, their classes, and which rows they are.

    Raises:
        NearfarError: if shapes or types do not fit, a value is NaN or infinite, or the rows are so long or
            short that float32 does not hold their similarities.
    """
    n = check_embeddings(embeddings, "embeddings")
    if isinstance(labels, Tensor) and labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    check_whole_numbers(labels, n, "labels")
    as_rows(embeddings, "embeddings", least=0)
    _, kept = labelled(labels, n, unlabelled) if n else (None, None)
    rows = torch.arange(n) if kept is None else torch.from_numpy(kept)
    if kept is not None:
        embeddings, labels = (x[rows.to(x.device)] for x in (embeddings, labels))
    return _squarable(embeddings.detach(), similarity), labels.long(), rows


def _squarable(x: Float[Tensor, "n dim"], similarity: str) -> Float[Tensor, "n dim"]:
    """Bring rows that are too long or short near length 1 by powers of two, which no cosine notices."""
    if x.dtype == torch.float64 or not x.numel():
        return x
    peak = x.abs().amax(1, keepdim=True).float()
    far = (peak > _SQUARABLE) | ((peak < 1 / _SQUARABLE) & (peak > 0))
    if not far.any():
        return x
    if similarity != "cosine":
        raise NearfarError(
            f"embeddings has {int(far.sum())} rows whose {similarity} similarities float32 does not hold, "
            f"the first reaches {float(peak[far][0]):.1g}; scale all rows, give float64, or use cosine."
        )
    return torch.where(far, torch.ldexp(x.float(), -torch.frexp(peak).exponent), x.float())

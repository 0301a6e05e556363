"""Distance-weighted sampling: negatives at all distances, however rare a distance is on the sphere."""

from collections.abc import Callable
from math import inf

import torch
from torch import Tensor
from torch.compiler import is_compiling

from nearfar.errors import NearfarError
from nearfar.mining.counter import key_of, names_of, uniforms
from nearfar.mining.places import most_positives, places
from nearfar.mining.registry import register_rule
from nearfar.pairs import Pairs
from nearfar.similarity import Measure, Sample
from nearfar.similarity.stable import read
from nearfar.similarity.stored import CHUNK


@register_rule(table=True)
def distance_weighted(
    pairs: Pairs, *, nearest: float = 0.5, farthest: float | None = 1.4, seed: int | None = None
) -> Pairs:
    """Draw one negative for each positive pair, with the inverse of the density of its distance.

    On the unit sphere in d dimensions distances D crowd around √2. Negatives are drawn, with replacement,
    with weights that undo this:

        log w(D) = (2 - d) log D - ½ (d - 3) log(1 - ¼ D²)

    with D at least ``nearest``, and w = 0 from ``farthest`` on. An anchor whose negatives all have weight 0
    draws uniformly among them. The draws are a function of the key and of the anchor's id (its row, without
    ids) alone. The key of a call comes from torch's generator, which ``nearfar train`` seeds anew for every
    step, so that a resumed run draws the same.

    Args:
        nearest: distances below this (> 0) weigh as much as this, so that noise is not drawn too often.
        farthest: distances from here on are never drawn, since their loss is zero; None draws them too.
        seed: a fixed key: the same draws at every call.

    Raises:
        NearfarError: if the bounds leave nothing or vectors that are compared are not of unit length.

    Reference:
        Wu et al., ICCV 2017, section 3.2. https://arxiv.org/abs/1706.07567
    """
    if not 0 < nearest < (inf if farthest is None else farthest):
        raise NearfarError(
            f"distances must satisfy 0 < nearest < farthest; got nearest={nearest}, farthest={farthest}."
        )
    _check_unit_length(pairs)
    pairs = pairs.short()
    uniform = uniforms(key_of(seed), names_of(pairs), max(1, most_positives(pairs)))
    weight = log_weight(pairs.measure, pairs.block.anchors.shape[1], nearest, farthest)
    (drawn,) = pairs.stream(Sample(weight, uniform))
    partners = drawn[pairs.positives.anchor, places(pairs)]
    return pairs.narrow(positives=partners >= 0, partners=partners)


def log_weight(
    measure: Measure, dim: int, nearest: float, farthest: float | None
) -> Callable[[Tensor], Tensor]:
    """Return log w as a function of the similarity of unit vectors of ``dim`` dimensions."""

    def weigh(s: Tensor) -> Tensor:
        square = {"euclidean": s * s, "squared_euclidean": -s}.get(measure, 2 - 2 * s)
        near = square.clamp(min=nearest**2)
        # Opposite points have w = ∞ in more than three dimensions; a distance of 2 - 5e-9 has it finite.
        cap = (1 - near / 4).clamp_min(5e-9)
        z = (1 - dim / 2) * near.log() - (dim - 3) / 2 * cap.log()
        return z if farthest is None else z.masked_fill(square >= farthest**2, -torch.inf)

    return weigh


def _check_unit_length(pairs: Pairs) -> None:
    if pairs.measure == "cosine" or is_compiling():
        return
    given, stored = pairs.block.parts
    lengths = [x.detach().norm(dim=1) for x in (given, pairs.block.anchors)]
    if stored is not None:
        lengths += [stored[a : a + CHUNK].norm(dim=1).to(lengths[0]) for a in range(0, len(stored), CHUNK)]
    length = torch.cat(lengths)
    # Unit vectors in half precision miss by 0.004; a zero vector has no direction and is let through.
    wrong = length.masked_fill((length == 0) | ((length - 1).abs() <= 0.01), 0.0)
    if len(wrong) and (found := read(wrong.max())):
        raise NearfarError(
            f"distance_weighted knows the distances of unit vectors, but a vector here has length "
            f"{found:.3g}; use similarity='cosine' or normalise the embeddings."
        )

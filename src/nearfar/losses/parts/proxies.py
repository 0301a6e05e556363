"""Losses that compare embeddings with learned vectors of the classes: how these start, and who meets whom."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from nearfar.errors import NearfarError
from nearfar.kept import Positives
from nearfar.losses.parts.limits import check_positive
from nearfar.pairs import Pairs
from nearfar.similarity import LogSumExp, Measure, choose
from nearfar.similarity.classes.block import ClassBlock
from nearfar.similarity.classes.dense import DenseClassBlock
from nearfar.similarity.classes.own import Geometry, Own
from nearfar.similarity.classes.ranks import Apart
from nearfar.similarity.dense.matrix import DenseBlock, Lengths
from nearfar.similarity.dense.reference import ReferenceBlock
from nearfar.similarity.interval import EVERYTHING, Interval
from nearfar.similarity.tiled.block import TiledBlock

MOST_CENTRES = 2**16
Start = Callable[[int, int, int], Float[Tensor, "row dim"]]
"""(classes, centres, dim) -> the vectors that training starts from, [class · centre, dim]"""


@dataclass(frozen=True)
class Proxies:
    """What a loss learns for each class, and how it compares embeddings with it.

    Attributes:
        start: how the vectors are drawn, as the paper's code does.
        unit: which sides are scaled to unit length where the cosine is asked for.
        measures: the similarities that the loss is written for.
        centres: the setting that says how many vectors a class has; None for one.
        sharpness: the setting whose inverse is the sharpness of the soft maximum over a class's vectors; None
            takes the nearest.
        squared: the own class by the squared distance, also where the cosine (of unit vectors) is asked for.
        sampled: whether the other classes count, so that some of them can stand for all.
        over: what the loss has one value for: each "anchor", or each "class".
    """

    start: Start
    unit: Literal["both", "proxies", "neither"] = "both"
    measures: tuple[Measure, ...] = ("cosine", "dot", "squared_euclidean", "euclidean")
    centres: str | None = None
    sharpness: str | None = None
    squared: bool = False
    sampled: bool = True
    over: Literal["anchor", "class"] = "anchor"

    def count(self, settings: Mapping[str, Any]) -> int:
        """How many vectors a class has."""
        return 1 if self.centres is None else settings[self.centres]

    def geometry(self, similarity: Measure, settings: Mapping[str, Any]) -> Geometry:
        """Return how an embedding is compared with a class."""
        cosine = similarity == "cosine"
        measure: Measure = "dot" if cosine and self.unit != "both" else similarity
        return Geometry(
            "squared_euclidean" if self.squared else measure,
            unit_anchors=cosine and self.unit == "both",
            unit_proxies=cosine and self.unit != "neither",
            centres=self.count(settings),
            sharpness=None if self.sharpness is None else 1 / settings[self.sharpness],
        )

    def check(self, name: str, similarity: Measure, settings: Mapping[str, Any]) -> None:
        """Refuse what the loss is not written for.

        Raises:
            NearfarError: if the similarity or the number of centres does not fit.
        """
        if similarity not in self.measures:
            options = " or ".join(repr(measure) for measure in self.measures)
            raise NearfarError(f"{name} is written for similarity={options}; got {similarity!r}.")
        if not 1 <= self.count(settings) <= MOST_CENTRES:
            raise NearfarError(
                f"{self.centres} of {name} must be at least 1, and at most {MOST_CENTRES}; got "
                f"{self.count(settings)}."
            )
        if self.sharpness is not None:
            check_positive(**{f"{self.sharpness} of {name}": settings[self.sharpness]})


def against_classes(
    embeddings: Float[Tensor, "anchor dim"],
    vectors: Float[Tensor, "row dim"],
    place: Int[Tensor, " anchor"],
    geometry: Geometry,
    backend: str,
    apart: Apart | None = None,
    lengths: Lengths = (None, None),
) -> Pairs:
    """Compare embeddings with classes: each one's own class is its positive, all others are its negatives.

    Args:
        lengths: of embeddings and vectors, where they are known and no number is near its end.
        apart: what to know of the classes of other ranks, where ``vectors`` are those of this rank.
    """
    if embeddings.shape[1] != vectors.shape[1]:
        raise NearfarError(
            f"embeddings have {embeddings.shape[1]} dimensions but the loss was created with "
            f"dim={vectors.shape[1]}; create it with dim={embeddings.shape[1]}."
        )
    # Ranks differ in how many vectors they have, and not in how they go about them.
    build = choose(backend, len(embeddings), len(vectors) if apart is None else apart.width)
    anchor = torch.arange(len(place), device=place.device)
    if build is DenseBlock and apart is None and DenseClassBlock.fits(geometry):
        block = DenseClassBlock(embeddings, vectors, place, geometry, lengths)
        return Pairs(block, Positives(anchor, place, block.own.similarity), EVERYTHING)
    block = ClassBlock(
        embeddings,
        vectors,
        place,
        geometry,
        streaming=build is TiledBlock,
        dtype=torch.float64 if build is ReferenceBlock else None,
        apart=apart,
    )
    if apart is None:
        return Pairs(block, Positives(anchor, place, block.own.similarity), Interval())
    if apart.everywhere:
        return Pairs(block, Positives(anchor, apart.place, block.own.similarity), Interval())
    here = torch.nonzero(place >= 0).squeeze(1)
    return Pairs(block, Positives(here, place[here], block.own.similarity[here]), Interval())


def own_class(pairs: Pairs) -> Own:
    """Return each anchor with the vectors of its own class."""
    assert isinstance(pairs.block, ClassBlock | DenseClassBlock), "a loss with proxies compares with classes"
    return pairs.block.own


def by_class(
    pairs: Pairs, others: LogSumExp, own: LogSumExp
) -> tuple[Float[Tensor, " class"], Float[Tensor, " class"]]:
    """Reduce, for each class, the embeddings of all other classes, and its own: -inf where it has none."""
    if isinstance(pairs.block, DenseClassBlock):
        return pairs.block.by_class(others, own)
    (of_others,) = pairs.stream(replace(others, per="candidate"))
    kept = pairs.positives
    of_class = Positives(kept.candidate, kept.anchor, kept.similarity)
    (of_own,) = of_class.reduced([own], len(of_others))
    return of_others, of_own


def all_vectors(pairs: Pairs) -> tuple[Float[Tensor, "row dim"], int]:
    """Return the vectors of all classes as they are compared, and how many each class has.

    Where ranks share the classes out, those of this rank; see ``per_vector``.
    """
    assert isinstance(pairs.block, ClassBlock | DenseClassBlock), "a loss with proxies compares with classes"
    return pairs.block.candidates, pairs.block.geometry.centres


def per_vector(pairs: Pairs, total: Float[Tensor, ""]) -> Float[Tensor, ""]:
    """Return the mean over the vectors of all classes of what comes to ``total`` over ``all_vectors``."""
    assert isinstance(pairs.block, ClassBlock | DenseClassBlock), "a loss with proxies compares with classes"
    count = total.new_full((), len(pairs.block.vectors))
    total, count = pairs.block.summed(torch.stack([total, count]))
    return total / count


def normal(std: float) -> Start:
    """Draw every number from a normal distribution."""
    return partial(_normal, std)


def _normal(std: float, classes: int, centres: int, dim: int) -> Tensor:
    return std * torch.randn(classes * centres, dim)


def about_unit(classes: int, centres: int, dim: int) -> Tensor:
    """Draw vectors of about unit length."""
    return torch.randn(classes * centres, dim) / dim**0.5


def unit_uniform(classes: int, centres: int, dim: int) -> Tensor:
    """Draw from a cube and scale to unit length."""
    return torch.nn.functional.normalize(torch.rand(classes * centres, dim).mul_(2).sub_(1), dim=1)


def kaiming_fan_out(classes: int, centres: int, dim: int) -> Tensor:
    """Draw from a normal distribution of variance 2 / (number of vectors)."""
    return torch.nn.init.kaiming_normal_(torch.empty(classes * centres, dim), mode="fan_out")


def xavier(classes: int, centres: int, dim: int) -> Tensor:
    """Draw uniformly within ±√(6 / (number of vectors + dim))."""
    return torch.nn.init.xavier_uniform_(torch.empty(classes * centres, dim))


def uniform_by_count(classes: int, centres: int, dim: int) -> Tensor:
    """Draw uniformly within ±1/√(number of vectors)."""
    return torch.rand(classes * centres, dim).mul_(2).sub_(1).div_((classes * centres) ** 0.5)

"""How far two sets of rows reach: all that an exact score hangs on besides its own two rows.

Every figure here is the same to the last bit in whatever order, and in however many parts, the rows are
looked at: lengths are compared and not summed, and the centre is a mean of whole numbers.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Float64

from nearfar.distributed import highest, total
from nearfar.errors import NearfarError
from nearfar.evaluate.rows import BLOCK, LONG, in_units, norms, peaks, power_beyond

_BITS = 30  # of the centre, counted from the largest number in the rows


@dataclass(frozen=True)
class Extent:
    """The centre of the gallery, and the longest query and gallery row from there.

    Only distances have a centre: they do not change when both sides move together, and small numbers round
    less. The cosine knows no lengths.

    Attributes:
        centre: mean of the gallery, in units.
        queries: longest query row from there, in units.
        gallery: longest gallery row from there.
        query_power: queries are in units of two to this power, which is 0 where their squares fit float64.
        gallery_power: the same of the gallery; distances have one unit for both sides.
    """

    centre: Float64[np.ndarray, " dim"]
    queries: float
    gallery: float
    query_power: int = 0
    gallery_power: int = 0

    @classmethod
    def of(
        cls,
        queries: Float[np.ndarray, "query dim"],
        gallery: Float[np.ndarray, "gallery dim"],
        similarity: str,
        *,
        across_ranks: bool = False,
    ) -> "Extent":
        """Measure two sets, or with ``across_ranks`` those that the ranks have parts of."""
        centre = np.zeros(gallery.shape[1])
        if similarity == "cosine":
            return cls(centre, 1.0, 1.0)
        powers = _powers(queries, gallery, similarity, across_ranks)
        some, others = in_units(queries, powers[0]), in_units(gallery, powers[1])
        if similarity != "dot":
            centre = _centre(others, across_ranks)
        longest = [norms(rows, centre).max(initial=0.0) for rows in (some, others)]
        query, other = _most(longest, across_ranks)
        return cls(centre, query, other, *powers)


def _powers(
    queries: Float[np.ndarray, "query dim"],
    gallery: Float[np.ndarray, "gallery dim"],
    similarity: str,
    across_ranks: bool,
) -> tuple[int, int]:
    """The unit of each side.

    Raises:
        NearfarError: if a row is so long that others, in its units, have no squares; on all ranks alike.
    """
    sides = [peaks(queries)]
    sides.append(sides[0] if gallery is queries else peaks(gallery))
    longest = [float(side.max(initial=0.0)) for side in sides]
    shortest = [float(side[side > 0].min(initial=math.inf)) for side in sides]
    most = _most([*longest, *(-each for each in shortest)], across_ranks)
    highs, lows = most[:2], [-each for each in most[2:]]
    if similarity != "dot":
        highs, lows = [max(highs)] * 2, [min(lows)] * 2
    for high, low in zip(highs, lows, strict=True):
        if high > LONG and low / high < LONG**-1.2:
            raise NearfarError(
                f"a row is so long that float64 holds no {similarity} similarity of it and the others: the "
                f"largest numbers of rows go from {low:.1g} to {high:.1g}; leave out what is broken, or use "
                "similarity='cosine'."
            )
    return power_beyond(highs[0]), power_beyond(highs[1])


def _centre(rows: Float[np.ndarray, "n dim"], across_ranks: bool) -> Float64[np.ndarray, " dim"]:
    """Return the mean row, of rows rounded to whole multiples of one power of two."""
    (largest,) = _most([float(np.abs(rows).max(initial=0.0))], across_ranks)
    unit = 2.0 ** (math.frexp(largest)[1] - _BITS)
    sums = np.zeros(rows.shape[1] + 1, np.int64)
    step = max(1, BLOCK // rows.shape[1])
    for start in range(0, len(rows), step):
        block = rows[start : start + step].astype(np.float64) / unit
        sums[:-1] += np.rint(block).astype(np.int64).sum(axis=0)
    sums[-1] = len(rows)
    if across_ranks:
        sums = total(torch.from_numpy(sums)).numpy()
    return sums[:-1] * unit / max(sums[-1], 1)


def _most(values: list[float], across_ranks: bool) -> list[float]:
    if not across_ranks:
        return [float(value) for value in values]
    return highest(torch.tensor(values, dtype=torch.float64)).tolist()

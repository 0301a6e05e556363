"""Random numbers that are a function of what they are for, so that they depend on no tile, thread or rank."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from nearfar.pairs import Pairs

# Steele et al., "Fast splittable pseudorandom number generators", OOPSLA 2014, as signed 64-bit numbers.
STEP = 0x9E3779B97F4A7C15 - 2**64
FIRST = 0xBF58476D1CE4E5B9 - 2**64
SECOND = 0x94D049BB133111EB - 2**64


def uniforms(key: int, names: Int[Tensor, " row"], draws: int) -> Float[Tensor, "row draw"]:
    """Return numbers in [0, 1), each a function of the key, its row's name and its place in the row.

    Args:
        key: any 64-bit number; another key gives other numbers.
        names: what each row is called. Rows of one name get the same numbers.
        draws: how many for each row.
    """
    row = mixed(mixed(torch.full_like(names, key, dtype=torch.int64)) ^ names)
    place = torch.arange(1, draws + 1, device=names.device)
    # The upper 53 bits fill a float64 in [0, 1).
    return _shifted(mixed(row[:, None] + place * STEP), 11).double() * 2.0**-53


def key_of(seed: int | None) -> int:
    """Return the seed, or 63 bits drawn from torch's generator, which training seeds anew for every step."""
    return int(torch.randint(2**63 - 1, ()).numpy()) if seed is None else seed


def names_of(pairs: Pairs) -> Int[Tensor, " anchor"]:
    """Return each anchor's id, or its row where there are no ids."""
    relation = pairs.block.relation
    if relation.anchor_ids is not None:
        return relation.anchor_ids.long()
    if relation.rows is not None:
        return relation.rows
    return torch.arange(len(pairs), device=pairs.block.anchors.device)


def mixed(x: Int[Tensor, "*shape"]) -> Int[Tensor, "*shape"]:
    """Spread every bit of a 64-bit number over all bits of another (splitmix64's finisher); 1 to 1."""
    x = (x ^ _shifted(x, 30)) * FIRST
    x = (x ^ _shifted(x, 27)) * SECOND
    return x ^ _shifted(x, 31)


def _shifted(x: Tensor, bits: int) -> Tensor:
    """Shift right and fill with zeros; torch's own shift fills with the sign."""
    return (x >> bits) & (2 ** (64 - bits) - 1)

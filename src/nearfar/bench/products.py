"""The bare matrix products that a loss cannot do without: the floor under its time."""

from collections.abc import Callable

import torch
from torch import Tensor

from nearfar.bench.clock import Times
from nearfar.bench.problems import Problem
from nearfar.similarity.tiled.matmul import Product, choose_product

STRIP, PIECE = 512, 4096
MOST_ROWS = 32_768
"""Beyond this many rows the rest takes the same again, and is not run."""

Work = Callable[[], None]


def products(problem: Problem, x: Tensor) -> tuple[dict[str, Work], float]:
    """Return the products as pieces of work, and the factor from their time to that of all rows.

    "torch.mm" multiplies strips of 512 rows with all rows, into the same memory each time. "fastest" is the
    fastest float32 product of this machine, which may be torch's, on pieces of 512 × 4,096.
    """
    n, dim = x.shape
    run = min(n, MOST_ROWS)
    similar, graded = int(problem.similarities * run), int(problem.gradients * run)
    weights = torch.full((min(STRIP, n), n), 1 / n)
    out, grown = torch.empty_like(weights), torch.empty(len(weights), dim)
    product = choose_product(dim, x.device)

    def with_torch() -> None:
        for rows in _strips(similar):
            torch.mm(x[rows], x.T, out=out[: rows.stop - rows.start])
        for rows in _strips(graded):
            k = rows.stop - rows.start
            torch.mm(weights[:k], x, out=grown[:k])

    def with_fastest() -> None:
        for rows in _strips(similar):
            for columns in _strips(n, PIECE):
                product(x[rows], x[columns], None)
        for rows in _strips(graded):
            for columns in _strips(n, PIECE):
                product(weights[: rows.stop - rows.start, columns], x[columns].T, None)

    return {"torch.mm": with_torch, "fastest": with_fastest}, n / run


def fastest_name(dim: int) -> str:
    """Return what "fastest" stands for on this machine, such as "onednn"."""
    product: Product = choose_product(dim, torch.device("cpu"))
    return product.__name__.strip("_").removesuffix("_product")


def least(times: dict[str, Times]) -> str:
    """Return the name of the product that took less time."""
    return min(("torch.mm", "fastest"), key=lambda name: times[name].middle)


def _strips(n: int, size: int = STRIP) -> list[slice]:
    return [slice(start, min(start + size, n)) for start in range(0, n, size)]

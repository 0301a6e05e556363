"""Float32 products of rows, as fast as this machine makes them, and threads that each own their rows.

On many processors oneDNN's float32 product is about twice as fast as the one behind ``torch.mm``, which torch
never chooses by itself. A setting of torch can also make either product round to bfloat16 or TF32; ranks
would then be wrong, so a product is used only after it has shown float32 accuracy on a small sample.
"""

import logging
import math
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import TypeVar

import torch
from torch import Tensor

log = logging.getLogger(__name__)

Item = TypeVar("Item")
Value = TypeVar("Value")

Product = Callable[[Tensor, Tensor, Tensor | None], Tensor]
"""(queries [q, dim], gallery [g, dim], bias [g] or None) -> queries @ gallery.T + bias, float32 [q, g]."""


def relative_error(dim: int) -> float:
    """Bound on |float32 product - exact product| for rows of length 1, whatever the order of the sum.

    min(d, 8 √d) + 4 units of 2⁻²⁴: d is certain for any order of summation; 8 √d is the probabilistic bound
    of Higham and Mary (SIAM J. Sci. Comput. 2019), exceeded with probability under 2 d exp(-32). The 4 covers
    the rounding of the rows themselves and of a bias.
    """
    return (min(dim, 8 * math.sqrt(dim)) + 4) * 2.0**-24


def choose_product(dim: int, device: torch.device) -> Product:
    """Return the fastest product that is accurate to float32 under the settings torch has at this moment."""
    products = [_torch_product]
    if device.type == "cpu" and _onednn_is_faster():
        products.insert(0, _onednn_product)
    generator = torch.Generator().manual_seed(0)
    left, right = (
        torch.nn.functional.normalize(torch.randn(n, dim, generator=generator), dim=1) for n in (64, 96)
    )
    exact = left.double() @ right.double().T
    for product in products:
        error = (product(left.to(device), right.to(device), None).cpu() - exact).abs().max().item()
        if error <= relative_error(dim):
            return product
    log.info("float32 products are set to a lower precision on %s; using float64 products instead", device)
    return _float64_product


def _torch_product(queries: Tensor, gallery: Tensor, bias: Tensor | None) -> Tensor:
    return queries @ gallery.T if bias is None else torch.addmm(bias, queries, gallery.T)


def _onednn_product(queries: Tensor, gallery: Tensor, bias: Tensor | None) -> Tensor:
    return torch.ops.mkldnn._linear_pointwise(queries, gallery, bias, "none", [], "")


def _float64_product(queries: Tensor, gallery: Tensor, bias: Tensor | None) -> Tensor:
    exact = queries.double() @ gallery.double().T
    return (exact if bias is None else exact + bias).float()


@cache
def _onednn_is_faster() -> bool:
    """Time both products once on this machine (a few milliseconds)."""
    if not torch.backends.mkldnn.is_available() or not hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        return False
    generator = torch.Generator().manual_seed(0)
    left, right = (torch.randn(n, 128, generator=generator) for n in (128, 1024))

    def seconds(product: Product) -> float:
        best = math.inf
        for _ in range(4):
            start = time.perf_counter()
            product(left, right, None)
            best = min(best, time.perf_counter() - start)
        return best

    try:
        return seconds(_onednn_product) < seconds(_torch_product)
    except RuntimeError:  # a build of torch whose oneDNN cannot take plain float32 matrices
        return False


def in_threads(work: Callable[[Item], Value], items: Iterable[Item], workers: int | None) -> list[Value]:
    """Apply ``work`` to every item, one thread a core, each with single-threaded operations.

    Threads over disjoint rows keep their speed when other processes share the cores; splitting every small
    operation over all cores does not.
    """
    before = torch.get_num_threads()
    count = workers or before
    try:
        with ThreadPoolExecutor(count, "nearfar", initializer=torch.set_num_threads, initargs=(1,)) as pool:
            return list(pool.map(work, items))
    finally:
        torch.set_num_threads(before)  # what a thread sets is also what threads started later begin with

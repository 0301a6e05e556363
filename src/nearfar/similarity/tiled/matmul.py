"""Float32 products of rows, as fast as this machine makes them.

On many processors oneDNN's float32 product is about twice as fast as the one behind ``torch.mm``, which torch
never chooses by itself. A setting of torch can also make either product round to bfloat16 or TF32; ranks
would then be wrong, so a product is used only after it has shown float32 accuracy on a small sample.
"""

import logging
import math
from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor

log = logging.getLogger(__name__)

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
    matmul = getattr(torch.backends.mkldnn, "matmul", None)
    settings = (
        torch.get_float32_matmul_precision(),
        torch.backends.cuda.matmul.allow_tf32,
        getattr(matmul, "fp32_precision", None),
    )
    return _choose(dim, device, settings)


@cache
def _choose(dim: int, device: torch.device, settings: tuple) -> Product:
    """Try the products on a sample, once for each state of torch's settings."""
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
    log.info("float32 products are rounded on %s (settings %s); using float64 products", device, settings)
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
    """Whether this is a CPU on which oneDNN's product is the faster one: a rule and not a race.

    They round differently, and a race would let the load of the machine choose the last bits of every result.
    With AVX2 there is nothing between them (0.43 against 0.39 ms for 256 x 512 x 128).
    """
    if not torch.backends.mkldnn.is_available() or not hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        return False
    if not torch.backends.cpu.get_cpu_capability().startswith("AVX512"):
        return False
    try:
        _onednn_product(torch.zeros(8, 8), torch.zeros(8, 8), None)
    except RuntimeError:  # a build of torch whose oneDNN cannot take plain float32 matrices
        return False
    return True

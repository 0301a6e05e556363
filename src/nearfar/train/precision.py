"""Number format and memory layout of the network; the loss is float32 always."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from nearfar.errors import NearfarError

Precision = Literal["float32", "bfloat16"]


@dataclass(frozen=True)
class Numerics:
    """How the network computes. Chosen once, kept in the checkpoint, the same after a resume.

    Attributes:
        precision: of the network's products; weights stay float32.
        channels_last: layout of the images in memory.
        reason: why, for the log.
    """

    precision: Precision
    channels_last: bool
    reason: str

    def layout(self) -> torch.memory_format:
        """Return the layout for torch."""
        return torch.channels_last if self.channels_last else torch.contiguous_format

    def autocast(self, device: torch.device) -> AbstractContextManager[object]:
        """Return the context in which the network runs."""
        if self.precision == "float32":
            return nullcontext()
        return torch.autocast(device.type, torch.bfloat16)


def choose_device(name: str) -> torch.device:
    """Return the device that the configuration asks for.

    Raises:
        NearfarError: if this machine does not have it.
    """
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    device = torch.device(name)
    count = {"cuda": torch.cuda.device_count(), "mps": int(torch.backends.mps.is_available()), "cpu": 1}[
        device.type
    ]
    if (device.index or 0) >= count:
        found = f"has {count}" if count else "has none"
        raise NearfarError(
            f"train.device = {name!r} is not there: this machine {found}; use 'cpu' or 'auto'."
        )
    return device


def choose_numerics(
    wanted: Literal["auto", "float32", "bfloat16"], device: torch.device, network: nn.Module
) -> Numerics:
    """Choose number format and layout by rule and never by the clock: a machine chooses the same each time.

    A GPU that computes bfloat16 uses it. So does a CPU with units for products of such matrices (AMX), for a
    network whose products are large: a convolution in groups (depthwise) gains nothing from them. What else
    a CPU may have, vectors of bfloat16 (AVX-512 BF16), is too close to float32 to be worth the digits.

    Args:
        wanted: ``train.precision``.
        device: where the network runs.
        network: what is trained.
    """
    layout = device.type != "mps"
    if wanted != "auto":
        return Numerics(wanted, layout, "train.precision asks for it")
    if device.type == "cuda":
        if torch.cuda.is_bf16_supported(including_emulation=False):
            return Numerics("bfloat16", layout, "this GPU computes it natively")
        return Numerics("float32", layout, "this GPU has no bfloat16")
    if device.type != "cpu" or not cpu_has_bfloat16():
        return Numerics("float32", layout, f"this {device.type} has no instructions for bfloat16")
    if not cpu_has_matrix_units():
        return Numerics("float32", layout, "this cpu has no matrix units for bfloat16")
    if in_groups(network):
        return Numerics("float32", layout, "convolutions in groups gain nothing from bfloat16 on a cpu")
    return Numerics("bfloat16", layout, "this cpu has matrix units for bfloat16")


def in_groups(network: nn.Module) -> bool:
    """Whether a network has convolutions of which each output sees a part of the inputs alone."""
    return any(module.groups > 1 for module in network.modules() if isinstance(module, nn.Conv2d))


def cpu_has_matrix_units() -> bool:
    """Whether the CPU has units for products of matrices in bfloat16 (AMX)."""
    return bool(getattr(torch.cpu, "_is_amx_tile_supported", bool)())


def cpu_has_bfloat16() -> bool:
    """Whether the CPU has instructions for bfloat16 (AVX-512 BF16 or AMX)."""
    probes = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(getattr(torch.cpu, probe, bool)() for probe in probes)


@contextmanager
def repeatable() -> Iterator[None]:
    """Let cuDNN choose kernels that give the same sums each time."""
    before = torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark
    torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = True, False
    try:
        yield
    finally:
        torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = before

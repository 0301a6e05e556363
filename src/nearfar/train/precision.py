"""Number format and memory layout of the network; the loss is float32 always."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Literal

import torch

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
    wanted: Literal["auto", "float32", "bfloat16"], device: torch.device, seconds: Callable[[Numerics], float]
) -> Numerics:
    """Choose number format and layout.

    A GPU that computes bfloat16 uses it. A CPU is timed, and only when it has instructions for bfloat16:
    without them it is many times slower. The gain must be clear (a third), so that the choice does not hang
    on the noise of the clock.

    Args:
        wanted: ``train.precision``.
        device: where the network runs.
        seconds: times one training step on a copy.
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
    plain, half = (Numerics(name, layout, "") for name in ("float32", "bfloat16"))
    # In turn, so that a busy moment of the machine does not fall on one of them alone.
    rounds = [(seconds(plain), seconds(half)) for _ in range(3)]
    slow, fast = (min(times) for times in zip(*rounds, strict=True))
    measured = f"a step takes {slow:.3f} s in float32 and {fast:.3f} s in bfloat16"
    return Numerics("bfloat16" if fast * 4 / 3 < slow else "float32", layout, measured)


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

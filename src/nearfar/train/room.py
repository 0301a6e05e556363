"""How much memory a device has left for this process."""

from pathlib import Path

import torch

GROUP = Path("/sys/fs/cgroup")
MACHINE = Path("/proc/meminfo")


def free_memory(device: torch.device) -> int | None:
    """Return the bytes that can still be taken, without swapping; None where nothing tells.

    On a CPU that is what the machine can give, or the container if that is less.
    """
    if device.type == "cuda":
        held = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + held
    if device.type != "cpu" or not MACHINE.exists():
        return None
    machine = _field(MACHINE, "MemAvailable:") * 1024
    limit = GROUP / "memory.max"
    if not limit.exists() or (most := limit.read_text().strip()) == "max":
        return machine
    # Pages of files are given back when memory is short.
    used = int((GROUP / "memory.current").read_text()) - _field(GROUP / "memory.stat", "inactive_file ")
    return min(machine, int(most) - used)


def _field(file: Path, name: str) -> int:
    lines = file.read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name))

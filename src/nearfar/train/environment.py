"""Where a run ran: machine, versions, commit."""

import os
import platform
import subprocess
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

import nearfar
from nearfar.distributed import launch_id, world_size


def environment(device: torch.device) -> dict[str, Any]:
    """Return plain values for the first line of the log."""
    return {
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": machine(device),
        "versions": versions(),
        "commit": commit(),
        "device": str(device),
        "threads": torch.get_num_threads(),
        "ranks": world_size(),
        "launch": launch_id(),
    }


def arithmetic(device: torch.device) -> dict[str, Any]:
    """Return what decides how sums are rounded: the same values give the same bits."""
    return {
        "device": device.type,
        "threads": torch.get_num_threads(),
        "torch": str(torch.__version__),
        "ranks": world_size(),
    }


def machine(device: torch.device) -> str:
    """Return one line such as "AMD EPYC, 2 cores, Linux"."""
    gpu = f", {torch.cuda.get_device_name(device)}" if device.type == "cuda" else ""
    return f"{_processor()}, {os.cpu_count()} cores{gpu}, {platform.system()}"


def versions() -> dict[str, str]:
    """Return the versions of what computes."""
    found = {
        "nearfar": nearfar.__version__,
        "python": platform.python_version(),
        "torch": str(torch.__version__),
    }
    for package in ("torchvision", "timm", "numpy", "pillow"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def commit() -> str | None:
    """Return the commit of nearfar's source, "+" when it was changed; None outside a checkout of it."""
    source = Path(nearfar.__file__).parent
    try:
        top = _git(source, "rev-parse", "--show-toplevel")
        if not (Path(top) / "src" / "nearfar").is_dir():
            return None
        return _git(source, "rev-parse", "--short=12", "HEAD") + (
            "+" if _git(source, "status", "--porcelain") else ""
        )
    except (OSError, subprocess.SubprocessError):
        return None


def _git(folder: Path, *arguments: str) -> str:
    command = ["git", "-C", str(folder), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()

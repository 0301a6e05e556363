"""What this machine has, what is missing, and how to get it."""

import importlib.util
import os
import re
import shutil
import sys
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version

from nearfar.cache import cache_folder


@dataclass(frozen=True)
class Finding:
    """One thing looked at.

    Attributes:
        what: was looked at.
        found: there.
        good: whether it is as nearfar needs it.
        advice: what to do when it is not.
    """

    what: str
    found: str
    good: bool = True
    advice: str = ""


def examine(*, quick: bool = False) -> list[Finding]:
    """Look at Python, packages, programs, disk and, unless ``quick``, at torch and its devices."""
    from nearfar.data.packs.builders import builders_are_here

    findings = [_python(), _packages("train")]
    if builders_are_here():
        findings += [_packages("packs"), *_programs()]
    return [*findings, _cache(), *([] if quick else _torch())]


def _python() -> Finding:
    found = sys.version.split()[0]
    good = sys.version_info >= (3, 11)
    return Finding("Python", found, good, "" if good else "nearfar needs Python 3.11 or newer.")


def packages_of(extra: str) -> list[str]:
    """Return the packages that an extra of nearfar asks for, as its metadata names them."""
    marked = [line.partition(";") for line in requires("nearfar") or []]
    asked = [package for package, _, marker in marked if re.search(f"extra == ['\"]{extra}['\"]", marker)]
    return [re.match(r"[\w.-]+", package.strip())[0] for package in asked]  # pyrefly: ignore


def _packages(extra: str) -> Finding:
    missing = [name for name in packages_of(extra) if _version(name) is None]
    found = "all packages are installed" if not missing else f"missing: {', '.join(missing)}"
    advice = f"pip install 'nearfar[{extra}]'" if missing else ""
    return Finding(f"nearfar[{extra}]", found, not missing, advice)


def _programs() -> list[Finding]:
    uses = {"npm": "the pack emoji", "apt-get": "the packs furniture, furniture-hard and kanji"}
    return [
        Finding(
            name,
            "found" if shutil.which(name) else "not found",
            shutil.which(name) is not None,
            "" if shutil.which(name) else f"only {use} cannot be built without it.",
        )
        for name, use in uses.items()
    ]


def _cache() -> Finding:
    folder = cache_folder()
    there = next(place for place in [folder, *folder.parents] if place.exists())
    free = shutil.disk_usage(there).free / 2**30
    good = os.access(there, os.W_OK) and free > 1
    advice = "" if good else "free some space, or set NEARFAR_CACHE to another folder."
    return Finding("cache", f"{folder}, {free:,.0f} GB free", good, advice)


def _torch() -> list[Finding]:
    if importlib.util.find_spec("torch") is None:
        return [Finding("torch", "not installed", False, "pip install torch")]
    import torch

    cores = os.cpu_count() or 1
    findings = [Finding("torch", f"{torch.__version__}, {torch.get_num_threads()} threads of {cores} cores")]
    if torch.cuda.is_available():
        for device in range(torch.cuda.device_count()):
            seen = torch.cuda.get_device_properties(device)
            findings.append(Finding(f"GPU {device}", f"{seen.name}, {seen.total_memory / 2**30:.0f} GB"))
    elif torch.backends.mps.is_available():
        findings.append(Finding("GPU", "Apple's, by mps"))
    else:
        findings.append(Finding("GPU", "none: training runs on the CPU, which suits small images"))
    return findings


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None

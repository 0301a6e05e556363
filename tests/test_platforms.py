"""Windows and macOS, as far as Linux can show: all modules import and work without what they lack."""

import subprocess
import sys
from pathlib import Path

import rank_processes

# What other packages need of the system they have taken by then; what is ours comes after.
WITHOUT = """
import os, pkgutil, signal, sys
import numpy, safetensors.torch, torch
for package in ("PIL.Image", "sklearn.manifold", "timm", "torchvision", "typer", "rich.console", "pydantic", "pyarrow"):
    try:
        __import__(package)
    except ImportError:  # of an extra
        pass
for name in ("fork", "register_at_fork", "sched_getaffinity", "sched_setaffinity", "geteuid", "getuid", "mkfifo"):
    if hasattr(os, name):
        delattr(os, name)
for name in ("SIGHUP", "SIGKILL", "SIGUSR1", "SIGALRM", "alarm", "pthread_sigmask"):
    if hasattr(signal, name):
        delattr(signal, name)
for name in ("fcntl", "resource", "pwd", "grp", "termios", "tty"):
    sys.modules[name] = None
"""


IMPORTS = """
import importlib, nearfar
from nearfar.errors import MissingExtra
count = 0
for module in pkgutil.walk_packages(nearfar.__path__, "nearfar.", onerror=lambda name: None):
    if module.name.endswith("__main__"):
        continue
    try:
        importlib.import_module(module.name)
    except MissingExtra:
        continue
    count += 1
assert count > 150, count
"""
NUMBERS = """
import torch, nearfar
torch.set_num_threads(2)
for n in (24, 600):
    x, y = torch.randn(n, 16, generator=torch.Generator().manual_seed(0)), torch.arange(n) // 4
    print(nearfar.losses.create("triplet", mining="hard")(x, y).item())
    print(nearfar.losses.create("supcon")(x, y).item())
    print(nearfar.evaluate.retrieval(x, y).map_at_r)
"""


def run(code: str, folder: Path) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=folder
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_every_module_imports_and_gives_the_same_numbers(tmp_path):
    """Of a loss and an evaluation, of few rows and of many."""
    found = run(WITHOUT + IMPORTS + NUMBERS, tmp_path)
    assert len(found) == 6
    assert found == rank_processes.printed(NUMBERS, tmp_path)


def test_apples_device_is_taken_where_it_is_there(monkeypatch):
    import torch

    from nearfar.train.precision import choose_device

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert choose_device("auto").type == "mps"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert choose_device("auto").type == "cuda"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert choose_device("auto").type == "cpu"

"""Windows and macOS, as far as Linux can show: all modules import and work without what they lack."""

import subprocess
import sys
from pathlib import Path

import pytest

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


def run(code: str, folder: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=folder
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_every_module_imports(tmp_path):
    code = WITHOUT + (
        "import importlib, nearfar\n"
        "from nearfar.errors import MissingExtra\n"
        "count = 0\n"
        "for module in pkgutil.walk_packages(nearfar.__path__, 'nearfar.', onerror=lambda name: None):\n"
        "    if module.name.endswith('__main__'):\n"
        "        continue\n"
        "    try:\n"
        "        importlib.import_module(module.name)\n"
        "    except MissingExtra:\n"
        "        continue\n"
        "    count += 1\n"
        "print(count > 150)\n"
    )
    assert run(code, tmp_path) == "True"


@pytest.mark.parametrize("rows", [24, 600])
def test_a_loss_and_an_evaluation_give_the_same_numbers(tmp_path, rows):
    work = (
        "import torch, nearfar\n"
        "torch.set_num_threads(2)\n"
        f"x, y = torch.randn({rows}, 16, generator=torch.Generator().manual_seed(0)), torch.arange({rows}) // 4\n"
        "print(nearfar.losses.create('triplet', mining='hard')(x, y).item())\n"
        "print(nearfar.losses.create('supcon')(x, y).item())\n"
        "print(nearfar.evaluate.retrieval(x, y).map_at_r)\n"
    )
    assert run(WITHOUT + work, tmp_path) == run(work, tmp_path)


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

"""Examples of loops on one rank or several, as torchrun starts them; for tests/test_examples.py."""

import contextlib
import io
import os
import runpy
import socket
from pathlib import Path

import rank_processes


def shown(script: Path, ranks: int) -> str:
    """What rank 0 prints."""
    with socket.socket() as asked:
        asked.bind(("localhost", 0))
        port = asked.getsockname()[1]
    return rank_processes.run(_shown, ranks, str(script), ranks, port, grouped=False)[0]


def _shown(rank: int, script: str, ranks: int, port: int) -> str:
    if ranks > 1:
        told = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": ranks, "LOCAL_WORLD_SIZE": ranks}
        told |= {"MASTER_ADDR": "localhost", "MASTER_PORT": port, "TORCHELASTIC_RUN_ID": "test"}
        os.environ |= {name: str(value) for name, value in told.items()}
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        runpy.run_path(script)
    return printed.getvalue()

"""Runs that are stopped at a certain record, and whether two runs ended with the same weights."""

import os
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from nearfar.config import Config


class At:
    """A tracker that does something when a certain record comes."""

    def __init__(self, do: Any, **wanted: Any) -> None:
        self.do, self.wanted = do, wanted

    def start(self, config: Mapping[str, Any], step: int) -> None:
        pass

    def log(self, record: Mapping[str, Any]) -> None:
        if all(record.get(key) == value for key, value in self.wanted.items()):
            self.do()

    def file(self, path: Path) -> None:
        pass

    def finish(self) -> None:
        pass


def weights(run: Path) -> dict[str, torch.Tensor]:
    state = torch.load(run / "last" / "checkpoint.pt", weights_only=True)
    inner = state["optimizer"]["state"]
    moments = {f"{i}.{k}": v for i, values in inner.items() for k, v in values.items()}
    return {**state["embedder"], **state["loss"], **moments}


def assert_same_weights(one: Path, other: Path) -> None:
    a, b = weights(one), weights(other)
    assert a.keys() == b.keys()
    for name in a:
        assert torch.equal(a[name], b[name]), name


def interrupt() -> None:
    os.kill(os.getpid(), signal.SIGINT)


def changed(config: Config, section: str, **values: Any) -> Config:
    whole = config.to_dict()
    return Config.model_validate({**whole, section: {**whole[section], **values}})

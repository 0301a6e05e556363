"""The configuration of a run: all its sections together."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import model_validator

from nearfar.config.read import load_config
from nearfar.config.sections import (
    Augment,
    Batch,
    Data,
    Loss,
    Memory,
    Model,
    Offline,
    Optimizer,
    Section,
    Train,
)
from nearfar.errors import ConfigError
from nearfar.toml import to_toml


class Config(Section):
    """All that decides a run. `Config()` is the demo; `Config.load` reads files and overrides."""

    data: Data = Data()
    augment: Augment = Augment()
    model: Model = Model()
    loss: Loss = Loss()
    memory: Memory = Memory()
    batch: Batch = Batch()
    offline: Offline = Offline()
    optimizer: Optimizer = Optimizer()
    train: Train = Train()

    @model_validator(mode="after")
    def _fits(self) -> "Config":
        epochs = self.train.epochs
        for key, least in (("warmup_epochs", 1), ("head_only_epochs", 0)):
            value = getattr(self.optimizer, key)
            if self.train.steps is None and value >= epochs and value > least:
                raise ConfigError(
                    f"optimizer.{key} = {value} leaves nothing of train.epochs = {epochs}; set it lower."
                )
        if self.model.head == "none" and self.optimizer.head_only_epochs > 0:
            raise ConfigError(
                "optimizer.head_only_epochs needs a head to train; set it to 0 or model.head to 'linear'."
            )
        return self

    @classmethod
    def load(cls, source: str | Path, overrides: Sequence[str] = ()) -> "Config":
        """Read a TOML file, or fit the defaults to a pack, a folder or a table of images.

        Args:
            source: path of a ``.toml`` file; else a pack's name, a folder of class folders, a CSV or Parquet
                file.
            overrides: ``"loss.beta=40"``; the value is TOML, and a bare word is a text. ``"loss.beta="``
                takes the default again.

        Raises:
            ConfigError: for an unknown key or source, or a value of the wrong kind: one sentence.
        """
        return load_config(cls, source, overrides)

    def to_dict(self) -> dict[str, Any]:
        """Return plain nested values as they stand in TOML, keys without a value left out."""
        return self.model_dump(mode="json", exclude_none=True)

    def to_toml(self) -> str:
        """Return the text that `load` reads back as an equal configuration."""
        return to_toml(self.to_dict())

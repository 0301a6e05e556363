"""A model on the disk: a folder with ``weights.safetensors`` and ``model.toml``."""

import hashlib
import json
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from nearfar.errors import CheckpointError
from nearfar.files import write_atomically
from nearfar.toml import to_toml

WEIGHTS, DESCRIPTION = "weights.safetensors", "model.toml"


def write_model(folder: Path, weights: Mapping[str, Tensor], description: Mapping[str, Any]) -> None:
    """Write both files.

    The weights carry a copy of the description, and are written first: when the process dies between the two
    files, the copy is the one that fits.
    """
    text = to_toml(description)  # first, so that a value that cannot be written stops before anything is
    folder.mkdir(parents=True, exist_ok=True)
    # A clone each: safetensors refuses tensors that share memory, as tied weights do.
    tensors = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in weights.items()}
    write_atomically(folder / WEIGHTS, save(tensors, {"nearfar": json.dumps(description)}))
    write_atomically(folder / DESCRIPTION, text)


def read_model(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return weights and description of a folder, or of the folder ``model`` in it, as in a run folder.

    Raises:
        CheckpointError: if the folder holds no model or a damaged one.
    """
    place = folder if (folder / WEIGHTS).is_file() else folder / "model"
    if not (place / WEIGHTS).is_file():
        raise CheckpointError(
            f"'{folder}' is not a model; expected a folder with {WEIGHTS} and {DESCRIPTION}."
        )
    try:
        with safe_open(place / WEIGHTS, framework="pt") as file:
            written = (file.metadata() or {}).get("nearfar")
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"'{place / WEIGHTS}' is damaged ({error}); save the model again.") from error
    if written is None:
        raise CheckpointError(
            f"'{place / WEIGHTS}' was not written by nearfar; it says nothing of its model."
        )
    with_weights = json.loads(written)
    try:
        described = tomllib.loads((place / DESCRIPTION).read_text(encoding="utf-8"))
    except FileNotFoundError:
        described = with_weights
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise CheckpointError(
            f"'{place / DESCRIPTION}' is damaged ({error}); save the model again."
        ) from error
    return weights, described if described.get("fingerprint") == with_weights["fingerprint"] else with_weights


def fit_weights(module: torch.nn.Module, weights: Mapping[str, Tensor], folder: Path) -> None:
    """Load ``weights`` into ``module``, which must have the same names and shapes.

    Raises:
        CheckpointError: naming the first that does not fit.
    """
    expected = module.state_dict()
    for name, tensor in expected.items():
        if name not in weights:
            raise CheckpointError(f"'{folder}' has no weight '{name}'; it was saved from another model.")
        if weights[name].shape != tensor.shape:
            raise CheckpointError(
                f"'{folder}' has weight '{name}' of shape {list(weights[name].shape)} but the model needs "
                f"{list(tensor.shape)}; it was saved from another model."
            )
    for name in weights:
        if name not in expected:
            raise CheckpointError(
                f"'{folder}' has weight '{name}', which the model lacks; it was saved from another."
            )
    module.load_state_dict(weights)


def fingerprint(weights: Mapping[str, Tensor], description: Mapping[str, Any]) -> str:
    """Return 16 hexadecimal digits that name these weights and how they are used."""
    digest = hashlib.sha256(json.dumps(description, sort_keys=True).encode())
    for name in sorted(weights):
        tensor = weights[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()[:16]

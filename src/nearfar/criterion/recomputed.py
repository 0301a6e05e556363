"""Whether ``torch.utils.checkpoint`` calls a loss once more, for the gradient of a step that it has seen."""

from torch._C._autograd import _top_saved_tensors_default_hooks
from torch.compiler import is_compiling

from nearfar.memory.again import in_backward


def recomputed() -> bool:
    """Say so of this call.

    Within a backward pass, with hooks on what is saved: so the checkpoint without re-entry computes again.
    The one with re-entry had no gradient when it computed first: there the second time is the step.
    """
    return not is_compiling() and in_backward() and _top_saved_tensors_default_hooks(False) is not None

"""A device that is not the CPU, without one: tensors that say so, with the CPU behind them.

``torch.device("pretend")`` is torch's place for a backend of one's own. A tensor on it holds one on the CPU, which only
this module touches. It is as strict as CUDA, and stricter where CUDA would copy in silence:

- an operation that mixes tensors of the device and of the CPU raises. A number (0-dim) of the CPU may go into arithmetic
  element by element, as CUDA lets it; indices of the CPU, which CUDA takes, raise;
- ``.to``, ``.cpu``, ``copy_``, ``.item`` and ``.tolist`` are the only ways across; ``.numpy()`` raises, and a
  generator of the CPU draws nothing on the device;
- ``waits()`` lists what a host has to wait for: ways across, and shapes that depend on numbers. A host that is told
  ``non_blocking`` does not wait.

It shows where tensors are made and left, and what code does that asks for the kind of device. It does not show that a
GPU has an operation, what it computes, or what goes wrong where a device works on by itself. Autocast is
on or off as asked, but casts nothing.

Importing this makes the device, which a process cannot take back: tests ask for the fixture ``device``.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import backend_registration
from torch.utils._mode_utils import no_dispatch

NAME = "pretend"
CPU = torch.device("cpu")
aten = torch.ops.aten
COPIES = {aten._to_copy, aten._copy_from, aten.copy_, aten.copy}
INDEXING = {aten.index, aten.index_put, aten.index_put_, aten._index_put_impl_}
TAKE_NUMBERS = {aten.index_put, aten.index_put_, aten._index_put_impl_, aten.masked_fill, aten.masked_fill_}
"""Not element by element, and CUDA lets a number of the CPU in all the same."""
WAITING = {
    *(aten._local_scalar_dense, aten.nonzero, aten.masked_select, aten.bincount, aten.equal),
    *(aten._unique2, aten.unique_consecutive, aten.unique_dim, aten._linalg_eigh, aten._linalg_svd),
}


class OnDevice(Tensor):
    """A tensor of the device; ``held`` is where its numbers are."""

    held: Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, held: Tensor) -> "OnDevice":
        made = Tensor._make_wrapper_subclass(
            cls, held.shape, held.stride(), held.storage_offset(), dtype=held.dtype, device=DEVICE
        )
        made.held = held
        return made

    @classmethod
    def __torch_dispatch__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(function, *args, **(kwargs or {}))

    def tolist(self) -> Any:
        return self.detach().cpu().tolist()

    def __repr__(self) -> str:
        return f"{self.held!r} on {NAME}"

    def __reduce_ex__(self, protocol: Any) -> Any:
        return _again, (self.detach().cpu(), self.requires_grad, isinstance(self, nn.Parameter))

    def __deepcopy__(self, memo: dict[int, Any]) -> Tensor:
        make, given = self.__reduce_ex__(2)
        memo[id(self)] = found = make(*given)
        return found


def _again(x: Tensor, learns: bool, is_parameter: bool) -> Tensor:
    """Return a copy of a tensor of the device, from what lies on the CPU."""
    x = x.to(DEVICE)
    return nn.Parameter(x, learns) if is_parameter else x.requires_grad_(learns)


def _run(function: Any, *args: Any, **kwargs: Any) -> Any:
    """Do on the CPU what was asked of the device."""
    kind = function.overloadpacket
    if kind in COPIES:
        return _copied(kind, *args, **kwargs)
    known: dict[int, OnDevice] = {}
    numbers = kind in TAKE_NUMBERS or torch.Tag.pointwise in function.tags

    def inside(x: Any) -> Any:
        if isinstance(x, OnDevice):
            known[id(x.held)] = x
            return x.held
        if isinstance(x, Tensor) and not (numbers and x.ndim == 0):
            raise RuntimeError(f"{function} on {NAME} is given a tensor {[*x.shape]} of {x.device}.")
        if isinstance(x, torch.Generator):
            raise RuntimeError(f"{function} on {NAME} is given a generator of {x.device}.")
        return CPU if isinstance(x, torch.device) else x

    def outside(x: Any) -> Any:
        if not isinstance(x, Tensor):
            return x
        return known[id(x)] if id(x) in known else OnDevice(x)

    args, held = _each(args, inside), {name: _each(x, inside) for name, x in kwargs.items()}
    if _listening and _has_to_wait(kind, args, held):
        _tell(str(function))
    found = function(*args, **held)
    if function._schema.is_mutable:
        for wrapper in known.values():
            _take_shape(wrapper)
    elsewhere = kwargs.get("device") is not None and kwargs["device"].type != NAME
    return found if elsewhere else _each(found, outside)


def _each(x: Any, change: Callable[[Any], Any]) -> Any:
    """Change what is in lists and tuples."""
    return type(x)([_each(one, change) for one in x]) if isinstance(x, list | tuple) else change(x)


def _copied(kind: Any, *args: Any, **kwargs: Any) -> Any:
    """Copy within the device, or from one to the other."""
    if kind is aten._to_copy:
        (source,), device = args, kwargs.get("device") or args[0].device
        if (device.type == NAME) != isinstance(source, OnDevice) and not kwargs.get("non_blocking"):
            _tell("copy")
        copy = aten._to_copy(getattr(source, "held", source), **{**kwargs, "device": CPU})
        return OnDevice(copy) if device.type == NAME else copy
    target, source, *blocking = args if kind is not aten._copy_from else (args[1], args[0], *args[2:])
    if isinstance(target, OnDevice) != isinstance(source, OnDevice) and not any(blocking):
        _tell("copy")
    into = getattr(target, "held", target)
    found = (aten.copy if kind is aten.copy else aten.copy_)(into, getattr(source, "held", source))
    if kind is not aten.copy:
        return target
    return OnDevice(found) if isinstance(target, OnDevice) else found


def _take_shape(wrapper: OnDevice) -> None:
    """Let a tensor say the shape that an operation in place has given to what it holds."""
    held = wrapper.held
    if wrapper.shape == held.shape and wrapper.stride() == held.stride():
        return
    before = torch._C._meta_in_tls_dispatch_include()
    with no_dispatch():
        torch._C._set_meta_in_tls_dispatch_include(True)
        try:
            place = (held.storage_offset(), held.shape, held.stride())
            aten.set_.source_Storage_storage_offset(wrapper, wrapper.untyped_storage(), *place)
        finally:
            torch._C._set_meta_in_tls_dispatch_include(before)


_listening: list[list[str]] = []


@contextmanager
def waits() -> Iterator[list[str]]:
    """List what the host waits for inside."""
    found: list[str] = []
    _listening.append(found)
    try:
        yield found
    finally:
        _listening.pop()


def _tell(what: str) -> None:
    for found in _listening:
        found.append(what)


def _has_to_wait(kind: Any, args: Any, kwargs: Any) -> bool:
    if kind is aten.repeat_interleave:
        return kwargs.get("output_size") is None
    if kind in INDEXING:
        indices, *value = args[1:3]
        masks = any(index is not None and index.dtype in (torch.bool, torch.uint8) for index in indices)
        filled = bool(value) and value[0].numel() == 1 and not (len(args) > 3 and args[3])
        return masks and not filled
    return kind in WAITING


class Module(backend_registration._DummyBackendModule):
    """What torch asks of ``torch.pretend``; its random numbers are the CPU's.

    It is not there for those who look for any device that there is: tests that do not ask for it run as before.
    """

    def is_available(self) -> bool:
        return False

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16, torch.float16]

    def get_rng_state(self, device: Any = None) -> Tensor:
        return torch.get_rng_state()

    def set_rng_state(self, state: Tensor, device: Any = None) -> None:
        torch.set_rng_state(state)


class Hooks(backend_registration._DummyPrivateUse1Hook):
    """What torch asks in C++; as in ``Module``."""

    def is_available(self) -> bool:
        return False


backend_registration._setup_privateuseone_for_python_backend(NAME, backend_module=Module(), hook=Hooks())
DEVICE = torch.device(NAME, 0)
_made = torch.library.Library("aten", "IMPL")
for _operation in (aten.empty.memory_format, aten.empty_strided.default, aten._copy_from.default):

    def _made_by(*args: Any, operation: Any = _operation, **kwargs: Any) -> Any:
        return _run(operation, *args, **kwargs)

    _made.impl(_operation, _made_by, "PrivateUse1")
_plain = torch.library.Library("_", "IMPL")
_plain.fallback(torch.library.fallthrough_kernel, "AutocastPrivateUse1")

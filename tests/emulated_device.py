"""An accelerator that is emulated: tensors on a device of their own, whose values are held on the CPU.

Within :func:`emulated_device`, ``tensor.to("meta")`` gives a tensor that says it is on the device ``meta`` and computes
with values. Like a CUDA device, it refuses operations on tensors of both devices, and what makes the host wait for a
CUDA device is noted. Nothing is known of what CUDA kernels compute.
"""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_leaves, tree_map_only

DEVICE = torch.device("meta")
"""The emulated device. Its name is one that autograd accepts without a driver."""

READS = {
    "_local_scalar_dense", "nonzero", "masked_select", "_unique2", "equal", "multinomial", "_linalg_eigh",
    "_linalg_svd", "linalg_eig", "_linalg_check_errors", "linalg_lstsq", "is_nonzero",
}  # fmt: skip
"""Operations for which the host waits for a CUDA device."""

COPIES = ("_to_copy", "copy_")
"""Operations that may take tensors of both devices."""


class DeviceTensor(Tensor):
    """A tensor on the emulated device.

    Args:
        values: Its values, on the CPU.
    """

    values: Tensor

    @staticmethod
    def __new__(cls, values: Tensor) -> DeviceTensor:
        """Return a tensor without storage that has the form of its values."""
        return Tensor._make_wrapper_subclass(
            cls,
            values.size(),
            strides=values.stride(),
            storage_offset=values.storage_offset(),
            dtype=values.dtype,
            device=DEVICE,
            requires_grad=False,
        )

    def __init__(self, values: Tensor) -> None:
        self.values = values

    def tolist(self) -> Any:
        """Return the values as numbers, for which the host waits."""
        note("tolist")
        return self.values.tolist()

    def numpy(self, **_: Any) -> Any:
        """Refuse, as a CUDA tensor does."""
        raise TypeError("can't convert a tensor of the device to numpy; use .cpu() first")

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Save the values: what is loaded is on the CPU."""
        note("save")
        return self.values.__reduce_ex__(protocol)

    def __repr__(self) -> str:  # type: ignore[override]
        return f"DeviceTensor({self.values!r})"

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation on the values."""
        return run(func, args, kwargs or {})


class Emulation(TorchDispatchMode):
    """Runs the operations that make tensors on the emulated device or bring them there."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation."""
        return run(func, args, kwargs or {})


class Construction(TorchFunctionMode):
    """Builds tensors from Python numbers on the CPU and brings them to the device, as torch does for CUDA."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run a function."""
        kwargs = kwargs or {}
        if func not in (torch.tensor, torch.as_tensor, Tensor.new_tensor):
            return func(*args, **kwargs)
        device = kwargs.pop("device", None)
        if func is Tensor.new_tensor:
            like, *args = args
            device = device or like.device
            kwargs.setdefault("dtype", like.dtype)
        found = (torch.as_tensor if func is torch.as_tensor else torch.tensor)(*args, **kwargs)
        return found if device is None else found.to(device)


_noted: list[list[str]] = []
_tapes: list[Tape] = []


class Tape:
    """Operations on the device that are recorded without being run, and can be replayed, as in a CUDA graph.

    They are run once, for their shapes, and what they have changed in tensors of before is undone in the end. A replay
    runs each operation on the memory that it was recorded with; numbers of the host are those of then.
    """

    def __init__(self) -> None:
        self._calls: list[tuple[Any, Any, Any, Any]] = []
        self._made: set[int] = set()
        self._before: dict[int, tuple[Any, Any]] = {}

    def save(self, func: Any, args: Any) -> None:
        """Save what an operation is about to change, unless it was made while recording."""
        written = [x for x, form in zip(args, func._schema.arguments, strict=False) if _is_written(form)]
        for x in tree_leaves(written):
            storage = x.untyped_storage()
            if storage.data_ptr() not in self._made:
                self._before.setdefault(storage.data_ptr(), (storage, storage.clone()))

    def add(self, func: Any, args: Any, kwargs: dict[str, Any], out: Any) -> None:
        """Record an operation that has been run."""
        if func.is_view or torch.Tag.inplace_view in func.tags:
            return  # the memory is the same
        # with shapes of their own, which operations such as squeeze_ cannot change
        self._calls.append((func, *tree_map_only(Tensor, Tensor.detach, (args, kwargs, out))))
        if not func._schema.is_mutable:
            self._made |= {x.untyped_storage().data_ptr() for x in tree_leaves(out) if isinstance(x, Tensor)}

    def rewind(self) -> None:
        """Undo what was changed."""
        for storage, before in self._before.values():
            storage.copy_(before)

    def replay(self) -> None:
        """Run all operations again."""
        with torch.no_grad():
            for func, args, kwargs, out in self._calls:
                again = func(*args, **kwargs)
                if not func._schema.is_mutable:
                    for held, new in zip(tree_leaves(out), tree_leaves(again), strict=True):
                        if isinstance(held, Tensor):
                            held.copy_(new)


def _is_written(form: Any) -> bool:
    return form.alias_info is not None and form.alias_info.is_write


@contextmanager
def recording() -> Iterator[Tape]:
    """Record operations instead of running them."""
    _tapes.append(Tape())
    try:
        yield _tapes[-1]
    finally:
        _tapes.pop().rewind()


def note(what: str) -> None:
    """Note that the host waits, with the lines of the project that lead there, innermost first."""
    if _tapes:
        raise RuntimeError(f"operation not permitted when stream is capturing: {what}")
    if _noted:
        frames = [f for f in traceback.extract_stack() if "site-packages" not in f.filename and f.filename != __file__]
        lines = [f"{frame.filename.rpartition('/')[2]}:{frame.lineno} {frame.line}" for frame in frames[:-4:-1]]
        _noted[-1].append(f"{what}: {' < '.join(lines)}")


def run(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """Run an operation on the values, and return tensors of the device where it is the device's."""
    name, named = func.overloadpacket.__name__, kwargs.get("device")
    inputs: list[Tensor] = []
    inner_args, inner_kwargs = _plain(args, inputs), _plain(kwargs, inputs)
    ours = [isinstance(x, DeviceTensor) for x in inputs]
    to_device = any(ours) if named is None else torch.device(named).type == DEVICE.type
    if not to_device and not any(ours):
        return func(*args, **kwargs)
    if inputs:
        check_devices(name, inputs, ours)
        note_wait(name, inputs, ours, to_device, args, kwargs)
    if named is not None:
        inner_kwargs["device"] = torch.device("cpu")
    if _tapes:
        _tapes[-1].save(func, inner_args)
    out = func(*inner_args, **inner_kwargs)
    if _tapes:
        _tapes[-1].add(func, inner_args, inner_kwargs, out)
    if name == "copy_":
        return args[0]
    if not to_device:
        return out
    wrapped = _wrapped(out)
    aliases = func.is_view or func._schema.is_mutable
    return return_and_correct_aliasing(func, args, kwargs, wrapped) if aliases else wrapped


def _plain(leaf: Any, inputs: list[Tensor]) -> Any:
    """Return arguments with the values of tensors, which are appended to a list; by hand, for pytree takes longer.

    Of a number of the host, while recording, the values are those of now.
    """
    if isinstance(leaf, Tensor):
        inputs.append(leaf)
        if isinstance(leaf, DeviceTensor):
            return leaf.values
        return leaf.clone() if _tapes else leaf
    if isinstance(leaf, tuple | list):
        return type(leaf)([_plain(part, inputs) for part in leaf])
    if isinstance(leaf, dict):
        return {key: _plain(value, inputs) for key, value in leaf.items()}
    return leaf


def _wrapped(out: Any) -> Any:
    """Return results as tensors of the device."""
    if type(out) is Tensor:
        return DeviceTensor(out)
    if isinstance(out, tuple | list):
        parts = [_wrapped(part) for part in out]
        return type(out)(*parts) if hasattr(out, "_fields") else type(out)(parts)
    return out


def check_devices(name: str, inputs: list[Tensor], ours: list[bool]) -> None:
    """Refuse tensors of both devices, but for numbers in a tensor without dimensions, indices, and copies."""
    indexes = name in ("index", "index_put_", "index_put") and ours[0]
    if name in COPIES or indexes or not any(ours):
        return
    if any(not own and x.dim() > 0 for x, own in zip(inputs, ours, strict=True)):
        raise RuntimeError(f"Expected all tensors to be on the same device, but found two devices in {name}")


def note_wait(name: str, inputs: list[Tensor], ours: list[bool], to_device: bool, args: Any, kwargs: Any) -> None:
    """Note a read, a copy from or to the host that is not asynchronous, and a mask as an index."""
    if name in READS and any(ours):
        note(name)
    elif name in COPIES:
        crosses = ours[0] != ours[1] if name == "copy_" else ours[0] != to_device
        asynchronous = kwargs.get("non_blocking", False) or (name == "copy_" and args[2:3] == (True,))
        if crosses and (_tapes or not asynchronous):
            note(name)
    elif name.startswith("index") and any(x.dtype in (torch.bool, torch.uint8) for x in inputs[1:]):
        note(name)


class Autocast(torch.autocast):
    """``torch.autocast`` that knows the emulated device, where it does what it does on the CPU."""

    def __init__(self, device_type: str, *args: Any, **kwargs: Any) -> None:
        super().__init__("cpu" if device_type == DEVICE.type else device_type, *args, **kwargs)


@contextmanager
def emulated_device() -> Iterator[None]:
    """Have an emulated device; a module that moves there keeps its parameters, as with CUDA."""
    before = torch.__future__.get_swap_module_params_on_conversion()
    torch.__future__.set_swap_module_params_on_conversion(True)
    try:
        with mock.patch.object(torch, "autocast", Autocast), Construction(), Emulation():
            yield
    finally:
        torch.__future__.set_swap_module_params_on_conversion(before)


@contextmanager
def host_waits() -> Iterator[list[str]]:
    """Note the places at which the host would wait for the device."""
    _noted.append([])
    try:
        yield _noted[-1]
    finally:
        _noted.pop()

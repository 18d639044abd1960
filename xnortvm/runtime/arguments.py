# SPDX-License-Identifier: Apache-2.0
"""Arrays of the user to arrays of TVM and back, checked, without copies where that is safe.

TVM's kernels load and store aligned vectors, so a borrowed input must be contiguous and aligned
to `ALIGNMENT` bytes; torch's tensors usually are, NumPy's usually are not. What cannot be
borrowed is copied into a staging tensor that lives as long as the model.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from xnortvm._tvm_runtime import runtime, tvm, tvm_ffi
from xnortvm.errors import InputError, near
from xnortvm.runtime.interface import TensorSpec

ALIGNMENT = 64


def bind(
    specs: Sequence[TensorSpec], positional: Sequence[Any], named: Mapping[str, Any]
) -> list[Any]:
    """Put positional and named arguments into the order of the inputs.

    Raises
    ------
    InputError
        When an argument is missing, unknown or given twice.
    """
    names = [spec.name for spec in specs]
    wanted = f"the model takes {_plural(len(specs), 'input')} ({', '.join(names)})"
    if len(positional) > len(specs):
        raise InputError(f"{wanted}, and {len(positional)} were given")
    bound = dict(zip(names, positional, strict=False))
    for name, value in named.items():
        if name not in names:
            raise InputError(f"{wanted}, and none is called {name!r}{near(name, names)}")
        if name in bound:
            raise InputError(f"input {name!r} was given twice, by position and by name")
        bound[name] = value
    missing = [name for name in names if name not in bound]
    if missing:
        raise InputError(f"{wanted}, and {', '.join(map(repr, missing))} was not given")
    return [bound[name] for name in names]


def given_or_random(specs: Sequence[TensorSpec], given: Any, batch: int = 1) -> list[Any]:
    """Return the arguments that are given, else random ones, the same in every call."""
    if given is not None:
        return list(given) if isinstance(given, (tuple, list)) else [given]
    random = np.random.default_rng(0)
    return [
        np.asarray(random.standard_normal(spec.of_batch(batch))).astype(spec.dtype)
        for spec in specs
    ]


def kind_of(specs: Sequence[TensorSpec], values: Sequence[Any]) -> str:
    """Return ``"numpy"``, ``"torch"`` or ``"torch on a GPU"``, the one kind that all values have.

    Raises
    ------
    InputError
        When a value is of another kind, or kinds are mixed.
    """
    kinds = {}
    for spec, value in zip(specs, values, strict=True):
        if isinstance(value, np.ndarray):
            kinds[spec.name] = "numpy"
        elif _is_torch(value):
            kinds[spec.name] = "torch" if value.device.type != "cuda" else "torch on a GPU"
        else:
            raise InputError(
                f"input {spec.name!r} must be a NumPy array or a torch tensor of {spec}, "
                f"got {type(value).__module__}.{type(value).__qualname__}"
            )
    if len(set(kinds.values())) > 1:
        mixed = ", ".join(f"{name} is {kind}" for name, kind in kinds.items())
        raise InputError(f"inputs must all be NumPy arrays or all torch tensors, but {mixed}")
    return next(iter(kinds.values()), "numpy")


def check(spec: TensorSpec, value: Any, devices: Sequence[str] = ("cpu",)) -> None:
    """Compare shape, dtype and device of a value with what the model expects.

    Parameters
    ----------
    spec : TensorSpec
    value : ndarray or torch.Tensor
    devices : sequence of str
        Types of torch devices whose tensors are taken.

    Raises
    ------
    InputError
        One sentence with the name of the input, what was expected and what was given.
    """
    shape, dtype = tuple(value.shape), str(value.dtype).removeprefix("torch.")
    if dtype != spec.dtype:
        raise InputError(
            f"input {spec.name!r} must be {spec.dtype}, got {dtype}; "
            f"convert it with {_CONVERT[_is_torch(value)].format(dtype=spec.dtype)}"
        )
    if len(shape) != len(spec.shape) or shape != spec.of_batch(shape[0] if shape else 0):
        got = str(TensorSpec("", shape, dtype))
        one_batch = len(shape) == len(spec.shape) > 0 and shape[1:] == spec.shape[1:]
        hint = (
            f"; the model was compiled for batch {spec.shape[0]}, compile it again with "
            f"example_inputs of batch {shape[0]}"
            if one_batch and not spec.has_batch
            else ""
        )
        raise InputError(f"input {spec.name!r} must be {spec}, got {got}{hint}")
    if _is_torch(value):
        if value.device.type not in devices:
            raise InputError(
                f"input {spec.name!r} must be on the CPU, got a tensor on {value.device}; "
                "move it with .cpu()"
            )
        if value.layout is not sys.modules["torch"].strided:
            raise InputError(f"input {spec.name!r} must be dense, got layout {value.layout}")


def check_batch(
    specs: Sequence[TensorSpec], values: Sequence[Any], limits: tuple[int, int | None] | None
) -> None:
    """Compare the batch of checked values with each other and with what the model takes.

    Raises
    ------
    InputError
        One sentence with the sizes.
    """
    if limits is None:
        return
    sizes = {
        spec.name: int(value.shape[0])
        for spec, value in zip(specs, values, strict=True)
        if spec.has_batch
    }
    if len(set(sizes.values())) > 1:
        listed = ", ".join(f"{name!r} has {size}" for name, size in sizes.items())
        raise InputError(f"all inputs must have the same batch, but {listed}")
    low, high = limits
    size = next(iter(sizes.values()), low)
    if size < low or (high is not None and size > high):
        wanted = f"from {low} to {high}" if high is not None else f"of at least {low}"
        raise InputError(f"the model takes a batch {wanted}, got {size}")


class Staging:
    """One aligned tensor per input, of the last call's shape, for values that cannot be borrowed.

    Parameters
    ----------
    specs : sequence of TensorSpec
        The inputs of the model.
    on_gpu : bool
        Whether the tensors are those of the first GPU: values are copied there, or borrowed where
        they are there already.
    """

    def __init__(self, specs: Sequence[TensorSpec], *, on_gpu: bool = False) -> None:
        self._specs = tuple(specs)
        self._on_gpu = on_gpu
        self._buffers: dict[int, tuple[Any, np.ndarray[Any, Any]]] = {}

    def take(self, index: int, value: Any) -> Any:
        """Return a TVM tensor with the contents of a checked value, borrowed or copied."""
        if _is_torch(value):
            value = value.detach().resolve_conj().resolve_neg()
        if self._on_gpu:
            return self._upload(index, value)
        try:
            return tvm_ffi.from_dlpack(value, require_alignment=ALIGNMENT, require_contiguous=True)
        except (RuntimeError, ValueError, BufferError, TypeError):
            # Misaligned, strided, or read-only, which NumPy does not lend.
            tensor, view = self._buffer(index, tuple(value.shape))
            np.copyto(view, value.numpy() if _is_torch(value) else value)
            return tensor

    def _upload(self, index: int, value: Any) -> Any:
        if _is_torch(value):
            if value.device.type == "cuda":
                return tvm_ffi.from_dlpack(value.contiguous())
            value = value.numpy()
        shape = tuple(value.shape)
        if index not in self._buffers or self._buffers[index][1].shape != shape:
            tensor = runtime.empty(shape, self._specs[index].dtype, tvm.cuda(0))
            self._buffers[index] = tensor, np.empty(shape, np.uint8)
        return self._buffers[index][0].copyfrom(np.ascontiguousarray(value))

    def _buffer(self, index: int, shape: tuple[int, ...]) -> tuple[Any, np.ndarray[Any, Any]]:
        if index not in self._buffers or self._buffers[index][1].shape != shape:
            tensor = runtime.empty(shape, self._specs[index].dtype)
            self._buffers[index] = tensor, np.from_dlpack(tensor)
        return self._buffers[index]


def flatten(result: Any) -> list[Any]:
    """Return the tensors of a (nested) tuple of tensors."""
    if isinstance(result, runtime.Tensor):
        return [result]
    return [leaf for field in result for leaf in flatten(field)]


def hand_out(tensors: Sequence[Any], kind: str, *, copy: bool) -> Any:
    """Turn the outputs into arrays of the caller's kind: one bare, several as a tuple.

    Parameters
    ----------
    tensors : sequence of tvm.runtime.Tensor or ndarray
        What the virtual machine returned, whose memory goes back to its pool when the last array
        that uses it is gone, or arrays made of it.
    kind : str
        What `kind_of` returned.
    copy : bool
        Copy instead of lending the memory.
    """
    arrays = tuple(_HAND_OUT[kind](tensor, copy) for tensor in tensors)
    return arrays[0] if len(arrays) == 1 else arrays


def _to_numpy(tensor: Any, copy: bool) -> Any:
    return tensor.numpy() if copy or _is_on_gpu(tensor) else np.from_dlpack(tensor)


def _to_torch(tensor: Any, copy: bool) -> Any:
    torch = sys.modules["torch"]
    if copy or _is_on_gpu(tensor):
        return torch.from_numpy(tensor.numpy())
    return torch.from_dlpack(tensor)


def _to_torch_on_gpu(tensor: Any, copy: bool) -> Any:
    torch = sys.modules["torch"]
    lent = torch.from_dlpack(tensor)
    return lent.clone() if copy else lent


def _is_on_gpu(tensor: Any) -> bool:
    device = getattr(tensor, "device", None)
    return str(getattr(device, "type", "")) == "cuda"


def _is_torch(value: Any) -> bool:
    # Nobody has a torch tensor without having imported torch.
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.Tensor)


def _plural(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


_CONVERT = {True: ".to(torch.{dtype})", False: '.astype("{dtype}")'}
_HAND_OUT: dict[str, Callable[[Any, bool], Any]] = {
    "numpy": _to_numpy,
    "torch": _to_torch,
    "torch on a GPU": _to_torch_on_gpu,
}

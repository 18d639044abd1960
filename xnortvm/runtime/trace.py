# SPDX-License-Identifier: Apache-2.0
"""Look into a run: which kernels were called, in which order, with what data, how long.

The virtual machine calls an instrument before and after every instruction. Its own helpers
(allocation, shape checks) are told from kernels by the prefix of their names.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np

from xnortvm._tvm_runtime import runtime, tvm_ffi

_BUILTIN = "vm."
_ALLOCATE = "vm.builtin.alloc_tensor"
# As a float a large negative number, as bits an even mixture.
_POISON = 0xCA
# What the virtual machine understands as answers of an instrument.
_RUN, _SKIP = 0, 1


class KernelCall(NamedTuple):
    """One call of a kernel.

    Attributes
    ----------
    kernel : str
        Symbol of the kernel in the library.
    args : tuple of ndarray
        Copies of all arguments as they were after the call: inputs and constants, then outputs.
    function : callable or None
        The kernel itself, which takes tensors; None of a run on another machine.
    device : tvm.runtime.Device or None
        Where those tensors have to be; None is the CPU.
    """

    kernel: str
    args: tuple[np.ndarray[Any, Any], ...]
    function: Any = None
    device: Any = None


def trace(vm: Any, inputs: Sequence[Any]) -> list[KernelCall]:
    """Run ``main`` once and record every kernel call.

    Parameters
    ----------
    vm : tvm.relax.VirtualMachine
        With the model loaded.
    inputs : sequence of tvm.runtime.Tensor
        Arguments of ``main``.

    Returns
    -------
    list of KernelCall
        In the order of execution.
    """
    return record(vm, inputs)[0]


def record(vm: Any, inputs: Sequence[Any]) -> tuple[list[KernelCall], Any]:
    """Run ``main`` once and return every kernel call, as `trace` does, and the result."""
    calls: list[KernelCall] = []

    def keep(func: Any, symbol: str, before: bool, _result: Any, *args: Any) -> int:
        if not before and not symbol.startswith(_BUILTIN):
            tensors = [arg for arg in args if isinstance(arg, runtime.Tensor)]
            arrays = tuple(tensor.numpy() for tensor in tensors)
            device = tensors[0].device if tensors else None
            calls.append(KernelCall(symbol, arrays, func, device))
        return _RUN

    with _instrument(vm, keep):
        result = vm["main"](*inputs)
    return calls, result


def poisoned(vm: Any, inputs: Sequence[Any]) -> tuple[Any, int]:
    """Run ``main`` once with noise in every tensor that it allocates, before it is written.

    What a kernel forgets to write then shows, where memory that was used before might have held
    the right values.

    Returns
    -------
    result
        What ``main`` returned.
    int
        Tensors that were filled.
    """
    filled = 0

    def fill(_func: Any, symbol: str, before: bool, result: Any, *_args: Any) -> int:
        nonlocal filled
        if not before and symbol.startswith(_ALLOCATE) and isinstance(result, runtime.Tensor):
            bytes_ = np.full(int(np.prod(result.shape)) * _itemsize(result), _POISON, np.uint8)
            result.copyfrom(bytes_.view(str(result.dtype)).reshape(tuple(result.shape)))
            filled += 1
        return _RUN

    with _instrument(vm, fill):
        result = vm["main"](*inputs)
    return result, filled


def _itemsize(tensor: Any) -> int:
    return np.dtype(str(tensor.dtype)).itemsize


def live_calls(vm: Any, inputs: Sequence[Any]) -> list[tuple[str, Any, tuple[Any, ...]]]:
    """Run ``main`` once and return symbol, function and arguments of every kernel call.

    The arguments are the tensors themselves, on the device: a call can be repeated and timed. What
    is in them is what later kernels left there.
    """
    calls: list[tuple[str, Any, tuple[Any, ...]]] = []

    def keep(func: Any, symbol: str, before: bool, _result: Any, *args: Any) -> int:
        if before and not symbol.startswith(_BUILTIN):
            calls.append((symbol, func, args))
        return _RUN

    with _instrument(vm, keep):
        vm["main"](*inputs)
    return calls


def time_kernels(
    vm: Any, inputs: Sequence[Any], repeats: int, finish: Callable[[], Any] = lambda: None
) -> list[tuple[str, list[float]]]:
    """Run ``main`` `repeats` times and time every kernel call in its place in the run.

    The instrument calls the kernel itself and tells the virtual machine to skip it, so that
    the caches hold what they hold in a normal run and the instrument's own cost is not counted;
    what is left of it, one call from Python (about 1 µs), is measured and subtracted. `finish`
    waits for kernels that run on after their call, as those of a GPU do.

    Returns
    -------
    list of (str, list of float)
        Symbol and times in microseconds, one entry for each call site in order of execution.
    """
    clock = time.perf_counter_ns
    runs: list[list[tuple[str, int]]] = []

    def measure(func: Any, symbol: str, before: bool, _result: Any, *args: Any) -> int:
        if not before or symbol.startswith(_BUILTIN):
            return _RUN
        finish()
        start = clock()
        func(*args)
        finish()
        runs[-1].append((symbol, clock() - start))
        return _SKIP

    overhead = _call_overhead_ns()
    with _instrument(vm, measure):
        for _ in range(repeats):
            runs.append([])
            vm["main"](*inputs)
    return [
        (site[0][0], [max(elapsed - overhead, 0) / 1e3 for _, elapsed in site])
        for site in zip(*runs, strict=True)
    ]


def _call_overhead_ns() -> int:
    """Return what one timed call of a function that does nothing costs, in nanoseconds."""
    clock = time.perf_counter_ns
    func = tvm_ffi.get_global_func("vm.builtin.null_value")
    times = []
    for _ in range(100):
        start = clock()
        func()
        times.append(clock() - start)
    return sorted(times)[len(times) // 2]


@contextmanager
def _instrument(vm: Any, function: Any) -> Iterator[None]:
    vm.set_instrument(function)
    try:
        yield
    finally:
        vm.set_instrument(None)

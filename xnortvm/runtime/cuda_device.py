# SPDX-License-Identifier: Apache-2.0
"""The CUDA driver by ctypes: as much of it as measuring needs, without TVM."""

from __future__ import annotations

import ctypes
import statistics
import weakref
from array import array
from collections.abc import Callable, Sequence
from typing import Any

LIBRARY = "libcuda.so.1"

# Numbers of cuda.h.
_NOT_FOUND, _NO_BINARY = 500, 209
_ATTRIBUTES = {
    "sms": 16,
    "clock_khz": 13,
    "memory_clock_khz": 36,
    "l2_bytes": 38,
    "major": 75,
    "minor": 76,
}
_DYNAMIC_SHARED, _GLOBAL_CAPTURE = 8, 0
_ROUNDS, _WARM_UP = 7, 2

Pointer = ctypes.c_uint64


class CudaError(RuntimeError):
    """A call of the driver failed; the sentence says which and why."""


class MissingKernelError(CudaError):
    """The chip's part of the fat binary lacks a kernel: it has no such instruction."""


class Driver:
    """One device, with its context current in this thread.

    Raises
    ------
    CudaError
        When there is no driver or no device.
    """

    def __init__(self) -> None:
        try:
            self._cuda = ctypes.CDLL(LIBRARY)
        except OSError as error:
            raise CudaError(
                f"there is no NVIDIA driver on this machine ({LIBRARY} cannot be loaded: {error})"
            ) from error
        self._call("cuInit", 0)
        count = ctypes.c_int()
        self._call("cuDeviceGetCount", ctypes.byref(count))
        if not count.value:
            raise CudaError("the NVIDIA driver finds no GPU; check CUDA_VISIBLE_DEVICES")
        self._device, context = ctypes.c_int(), ctypes.c_void_p()
        self._call("cuDeviceGet", ctypes.byref(self._device), 0)
        self._call("cuDevicePrimaryCtxRetain", ctypes.byref(context), self._device)
        self._call("cuCtxSetCurrent", context)
        self._stream = ctypes.c_void_p()
        self._call("cuStreamCreate", ctypes.byref(self._stream), 1)
        self._events = [ctypes.c_void_p(), ctypes.c_void_p()]
        for event in self._events:
            self._call("cuEventCreate", ctypes.byref(event), 0)

    @property
    def stream(self) -> int:
        """The handle of the stream that everything here is launched into."""
        return self._stream.value or 0

    def describe(self) -> dict[str, Any]:
        """Return name, driver, memory and some attributes of the device."""
        name, version = ctypes.create_string_buffer(100), ctypes.c_int()
        self._call("cuDeviceGetName", name, 100, self._device)
        self._call("cuDriverGetVersion", ctypes.byref(version))
        free, total = self.memory()
        data: dict[str, Any] = {
            "name": name.value.decode(),
            "cuda_of_driver": f"{version.value // 1000}.{version.value % 1000 // 10}",
            "memory_bytes": total,
            "free_bytes": free,
        }
        for key, number in _ATTRIBUTES.items():
            value = ctypes.c_int()
            self._call("cuDeviceGetAttribute", ctypes.byref(value), number, self._device)
            data[key] = value.value
        return data

    def memory(self) -> tuple[int, int]:
        """Return free and total bytes."""
        free, total = ctypes.c_size_t(), ctypes.c_size_t()
        self._call("cuMemGetInfo_v2", ctypes.byref(free), ctypes.byref(total))
        return free.value, total.value

    def module(self, image: bytes) -> ctypes.c_void_p:
        """Load device code; the driver picks the part for this chip."""
        module = ctypes.c_void_p()
        status = self._cuda.cuModuleLoadData(ctypes.byref(module), image)
        if status == _NO_BINARY:
            raise CudaError("the bundle holds no machine code for this chip; build it again for it")
        self._check("cuModuleLoadData", status)
        return module

    def function(self, module: ctypes.c_void_p, name: str, shared: int = 0) -> ctypes.c_void_p:
        """Return a kernel, allowed so many bytes of dynamic shared memory.

        Raises
        ------
        MissingKernelError
            When the module has none of this name.
        """
        function = ctypes.c_void_p()
        status = self._cuda.cuModuleGetFunction(ctypes.byref(function), module, name.encode())
        if status == _NOT_FOUND:
            raise MissingKernelError("this chip has no such instruction")
        self._check("cuModuleGetFunction", status)
        if shared:
            self._call("cuFuncSetAttribute", function, _DYNAMIC_SHARED, shared)
        return function

    def allocate(self, size: int) -> Pointer:
        """Return so many bytes of device memory."""
        pointer = Pointer()
        self._call("cuMemAlloc_v2", ctypes.byref(pointer), ctypes.c_size_t(size))
        return pointer

    def free(self, pointer: Pointer) -> None:
        """Give memory back."""
        self._call("cuMemFree_v2", pointer)

    def fill(self, pointer: Pointer, word: int, words: int) -> None:
        """Set words to one value."""
        self._call("cuMemsetD32_v2", pointer, ctypes.c_uint(word), ctypes.c_size_t(words))
        self._call("cuCtxSynchronize")

    def upload(self, pointer: Pointer, words: Sequence[int]) -> None:
        """Copy 32-bit words to the device."""
        data = array("I", words).tobytes()
        self._call("cuMemcpyHtoD_v2", pointer, data, ctypes.c_size_t(len(data)))

    def download(self, pointer: Pointer, count: int, kind: str = "I") -> list[int]:
        """Copy words from the device; "Q" are words of 64 bits."""
        data = array(kind, [0]) * count
        size = ctypes.c_size_t(count * data.itemsize)
        self._call("cuMemcpyDtoH_v2", ctypes.c_void_p(data.buffer_info()[0]), pointer, size)
        return list(data)

    def launch(
        self,
        function: ctypes.c_void_p,
        grid: int,
        block: int,
        arguments: Sequence[Any] = (),
        shared: int = 0,
    ) -> None:
        """Start a kernel; arguments are values of ctypes."""
        addresses = (ctypes.c_void_p * max(len(arguments), 1))(
            *(ctypes.cast(ctypes.byref(value), ctypes.c_void_p) for value in arguments)
        )
        self._call(
            *("cuLaunchKernel", function, grid, 1, 1, block, 1, 1, shared),
            *(self._stream, addresses, None),
        )

    def wait(self) -> None:
        """Wait for everything; faults of kernels are raised here."""
        self._call("cuStreamSynchronize", self._stream)

    def seconds(self, work: Callable[[], None]) -> float:
        """Return the median time of some work, after a warm-up."""
        return statistics.median(self.times(work, _WARM_UP + _ROUNDS)[_WARM_UP:])

    def times(self, work: Callable[[], None], rounds: int) -> list[float]:
        """Return the seconds of some work in each of so many rounds."""
        times = []
        for _ in range(rounds):
            self._call("cuEventRecord", self._events[0], self._stream)
            work()
            self._call("cuEventRecord", self._events[1], self._stream)
            self._call("cuEventSynchronize", self._events[1])
            elapsed = ctypes.c_float()
            self._call("cuEventElapsedTime", ctypes.byref(elapsed), *self._events)
            times.append(elapsed.value * 1e-3)
        return times

    def graph(self, work: Callable[[], None]) -> Callable[[], None]:
        """Record some launches and return what starts all of them at once."""
        graph, ready = ctypes.c_void_p(), ctypes.c_void_p()
        self._call("cuStreamBeginCapture_v2", self._stream, _GLOBAL_CAPTURE)
        work()
        self._call("cuStreamEndCapture", self._stream, ctypes.byref(graph))
        self._call("cuGraphInstantiateWithFlags", ctypes.byref(ready), graph, ctypes.c_uint64(0))
        self._call("cuGraphDestroy", graph)

        def launch() -> None:
            self._call("cuGraphLaunch", ready, self._stream)

        weakref.finalize(launch, self._cuda.cuGraphExecDestroy, ready).atexit = False
        return launch

    def _call(self, name: str, *arguments: Any) -> None:
        self._check(name, getattr(self._cuda, name)(*arguments))

    def _check(self, name: str, status: int) -> None:
        if not status:
            return
        text = ctypes.c_char_p()
        self._cuda.cuGetErrorString(status, ctypes.byref(text))
        said = text.value.decode() if text.value else "unknown error"
        raise CudaError(f"{name} failed with error {status}: {said}")

# SPDX-License-Identifier: Apache-2.0
"""A model's code in a virtual machine: loaded by the first call, run by one thread at a time."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from xnortvm._tvm_runtime import VirtualMachine, tvm
from xnortvm.errors import DeviceError, XnortvmError
from xnortvm.runtime import arguments
from xnortvm.runtime.cuda_driver import device_failure
from xnortvm.runtime.host import Machine, check_gpu, check_host
from xnortvm.runtime.samples import run_samples
from xnortvm.runtime.threads import use_threads

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from xnortvm.runtime.interface import Interface


class Running:
    """Code that runs.

    Parameters
    ----------
    interface : Interface
    machine : Machine
        What the code needs.
    target_name : str
        What it was compiled for.
    num_threads : int
    copies_outputs : bool
        Whether results lie in memory that the next call writes to.
    loadable : callable
        Returns the executable or library, once.
    """

    def __init__(
        self,
        interface: Interface,
        machine: Machine,
        target_name: str,
        num_threads: int,
        copies_outputs: bool,
        loadable: Callable[[], Any],
    ) -> None:
        self.machine = machine
        self.copies_outputs = copies_outputs
        self._interface = interface
        self._target_name = target_name
        self._num_threads = num_threads
        self._loadable = loadable
        self._lock = threading.Lock()
        self._staging = arguments.Staging(interface.inputs, on_gpu=bool(machine.arch))
        self._loaded: Any = None
        self._main: Any = None

    @property
    def devices(self) -> tuple[str, ...]:
        """Where arguments may lie."""
        return ("cpu", "cuda") if self.machine.arch else ("cpu",)

    def call(self, values: Sequence[Any], kind: str) -> Any:
        """Return the outputs for checked arguments, as arrays or tensors of a kind."""
        interface = self._interface
        with self._lock, self._device_errors():
            self._vm()
            use_threads(self._num_threads)
            if interface.batch is None:
                result = arguments.flatten(self._run(values))
                return arguments.hand_out(result, kind, copy=self.copies_outputs)
            arrays = run_samples(self._run, interface.inputs, interface.outputs, values)
            return arguments.hand_out(arrays, kind, copy=False)

    @contextmanager
    def alone(self, values: Sequence[Any]) -> Iterator[tuple[Any, list[Any]]]:
        """Own the virtual machine, and get it and the arguments of ``main`` for one sample."""
        with self._lock:
            vm = self._vm()
            use_threads(self._num_threads)
            yield vm, list(map(self._staging.take, range(len(values)), values))

    def finish(self) -> None:
        """Wait for what a GPU has been told to do."""
        if self.machine.arch:
            tvm.cuda(0).sync()

    def _run(self, values: Sequence[Any]) -> Any:
        return self._main(*map(self._staging.take, range(len(values)), values))

    def _vm(self) -> Any:
        if self._loaded is None:
            what = f"the model was compiled for {self._target_name}"
            check_host(self.machine, what)
            check_gpu(self.machine, what)
            device = tvm.cuda(0) if self.machine.arch else tvm.cpu()
            self._loaded = VirtualMachine(self._loadable(), device)
            self._main = self._loaded["main"]
        return self._loaded

    @contextmanager
    def _device_errors(self) -> Iterator[None]:
        """Say in one sentence what a GPU could not do."""
        try:
            yield
        except XnortvmError:
            raise
        except Exception as error:
            if not self.machine.arch:
                raise
            raise DeviceError(device_failure(str(error), self._target_name)) from error

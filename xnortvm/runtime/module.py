# SPDX-License-Identifier: Apache-2.0
"""A model that runs: call it, save it, time it."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xnortvm.errors import ModelError, TargetError
from xnortvm.runtime import arguments, bundle, folder
from xnortvm.runtime import trace as tracing
from xnortvm.runtime.elf import glibc_of
from xnortvm.runtime.host import Machine, machine_of
from xnortvm.runtime.interface import Interface, Kernel, TensorSpec
from xnortvm.runtime.library import runnable
from xnortvm.runtime.measure import BenchmarkResult, Profile, time_calls
from xnortvm.runtime.running import Running
from xnortvm.runtime.samples import first_sample

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from contextlib import AbstractContextManager

    from xnortvm.freestanding import Freestanding
    from xnortvm.runtime.build import Built
    from xnortvm.runtime.folder import Example

    MakeFreestanding = Callable[["CompiledModel", str], tuple[Freestanding, list[Any]]]


class CompiledModel:
    """A compiled model. Made by `xnortvm.compile` and `xnortvm.load`, not by hand.

    Calls may come from several threads; they run one after the other.

    Attributes
    ----------
    report
        What the compiler decided for every layer; `str()` prints it.
    inputs, outputs : tuple of TensorSpec
        Names, shapes and dtypes.
    target_name : str
        What it was compiled for.
    num_threads : int
        Threads that it runs on.

    Examples
    --------
    >>> y = compiled(x)  # doctest: +SKIP
    >>> compiled.save("net.xnor")  # doctest: +SKIP
    >>> print(compiled.benchmark())  # doctest: +SKIP
    """

    def __init__(
        self,
        *,
        interface: Interface,
        report: Any,
        target_name: str,
        num_threads: int,
        machine: Machine,
        copies_outputs: bool,
        library: Callable[[], bytes],
        loadable: Callable[[], Any],
        objects: Callable[[], dict[str, bytes]] = dict,
        freestanding: MakeFreestanding | None = None,
    ) -> None:
        self.report = report
        self.target_name = target_name
        self.num_threads = num_threads
        self._interface = interface
        self._running = Running(
            interface, machine, target_name, num_threads, copies_outputs, loadable
        )
        self._library = library
        self._objects = objects
        self._freestanding = freestanding

    @classmethod
    def from_built(
        cls,
        built: Built,
        report: Any,
        freestanding: MakeFreestanding | None = None,
    ) -> CompiledModel:
        """Wrap what `xnortvm.runtime.build.build` returned; needs no linker before `save`.

        Parameters
        ----------
        built : Built
        report : Report
        freestanding : callable, optional
            From this model and a prefix to the freestanding form and the outputs that its example
            has to find.
        """
        return cls(
            interface=built.interface,
            report=report,
            target_name=built.target.name,
            num_threads=built.target.num_threads,
            machine=machine_of(built.target),
            copies_outputs=built.copies_outputs,
            library=lambda: built.library,
            loadable=lambda: runnable(built),
            objects=lambda: built.objects,
            freestanding=freestanding,
        )

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """The inputs in the order of the arguments."""
        return self._interface.inputs

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """The outputs in the order of the results."""
        return self._interface.outputs

    @property
    def library(self) -> bytes:
        """The shared library; the same model and target give the same bytes."""
        return self._library()

    def __repr__(self) -> str:
        takes = ", ".join(f"{spec.name}: {spec}" for spec in self.inputs)
        gives = ", ".join(map(str, self.outputs))
        return f"CompiledModel({takes} -> {gives}; {self.target_name})"

    def __call__(self, *inputs: Any, **named: Any) -> Any:
        """Run the model.

        Parameters
        ----------
        *inputs, **named : ndarray or torch.Tensor
            By position or by name; shape and dtype as in ``inputs``. Contiguous tensors aligned
            to 64 bytes are read in place, others are copied.

        Returns
        -------
        ndarray, torch.Tensor or tuple of them
            The kind that was given; one output bare, several as a tuple. The memory is the
            caller's: later calls do not touch it.

        Raises
        ------
        InputError
            When number, names, kinds, shapes, dtypes or devices do not fit.
        TargetError
            When this machine cannot run the code.
        DeviceError
            When the GPU that runs it fails, or has too little memory.
        """
        values = arguments.bind(self.inputs, inputs, named)
        kind = arguments.kind_of(self.inputs, values)
        for spec, value in zip(self.inputs, values, strict=True):
            arguments.check(spec, value, self._running.devices)
        arguments.check_batch(self.inputs, values, self._interface.batch)
        return self._running.call(values, kind)

    def benchmark(
        self,
        inputs: Sequence[Any] | None = None,
        *,
        repeats: int | None = None,
        warmup: int = 5,
        batch: int = 1,
    ) -> BenchmarkResult:
        """Time whole calls, one after the other.

        Parameters
        ----------
        inputs : sequence of ndarray or torch.Tensor, optional
            Arguments of the call; random values by default.
        repeats : int, optional
            Timed calls; by default as many as take about one second, 10 to 500.
        warmup : int
            Calls before, not counted.
        batch : int
            Samples of the random values, for a model with a dynamic batch.
        """
        values = arguments.given_or_random(self.inputs, inputs, batch)
        self(*values)
        return time_calls(
            lambda: self(*values), repeats=repeats, warmup=warmup, num_threads=self.num_threads
        )

    def profile(self, inputs: Sequence[Any] | None = None, *, repeats: int = 20) -> Profile:
        """Time every kernel in its place in the run; of a dynamic batch, for the first sample.

        Parameters
        ----------
        inputs : sequence of ndarray or torch.Tensor, optional
            Arguments of the call; random values by default.
        repeats : int
            Runs of the model; medians are reported.
        """
        with self._one_sample(inputs) as (vm, tensors):
            sites = tracing.time_kernels(vm, tensors, max(repeats, 1), self._running.finish)
        return Profile.of(sites, self._interface.kernels)

    def trace(self, inputs: Sequence[Any] | None = None) -> list[tracing.KernelCall]:
        """Run once, for one sample, and return every kernel call with copies of its arguments.

        Parameters
        ----------
        inputs : sequence of ndarray or torch.Tensor, optional
            Arguments of the call; random values by default.
        """
        with self._one_sample(inputs) as (vm, tensors):
            return tracing.trace(vm, tensors)

    def record(self, inputs: Sequence[Any]) -> tuple[list[Any], list[tracing.KernelCall]]:
        """Run once; return the outputs as arrays, and the kernel calls as `trace` does.

        Parameters
        ----------
        inputs : sequence of ndarray
            Arguments of the call.
        """
        with self._running.alone(inputs) as (vm, tensors):
            calls, result = tracing.record(vm, tensors)
        return [tensor.numpy() for tensor in arguments.flatten(result)], calls

    def run_poisoned(self, inputs: Sequence[Any]) -> tuple[Any, int]:
        """Run once, for one sample, with noise in all memory that the model allocates.

        Parameters
        ----------
        inputs : sequence of ndarray or torch.Tensor
            Arguments of the call.

        Returns
        -------
        ndarray or tuple of ndarray
            The outputs, as a call gives them.
        int
            How many tensors were filled with noise.
        """
        with self._one_sample(inputs) as (vm, tensors):
            result, filled = tracing.poisoned(vm, tensors)
            arrays = tuple(tensor.numpy() for tensor in arguments.flatten(result))
        return (arrays[0] if len(arrays) == 1 else arrays), filled

    def live_calls(
        self, inputs: Sequence[Any] | None = None
    ) -> list[tuple[str, Any, tuple[Any, ...]]]:
        """Run once and return every kernel call as symbol, function and its tensors.

        Parameters
        ----------
        inputs : sequence of ndarray or torch.Tensor, optional
            Arguments of the call; random values by default.
        """
        with self._one_sample(inputs) as (vm, tensors):
            return tracing.live_calls(vm, tensors)

    @property
    def kernels(self) -> dict[str, Kernel]:
        """Every kernel of the library by its symbol."""
        return dict(self._interface.kernels)

    @property
    def layer_kernels(self) -> frozenset[str]:
        """Symbols of the kernels that compute layers, and what follows them."""
        return frozenset(name for name, row in self._interface.kernels.items() if row.layers)

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the model to one file that `xnortvm.load` reads.

        Parameters
        ----------
        path : path-like
            Usually with the suffix ``.xnor``; an existing file is replaced in one step.

        Returns
        -------
        Path
            The file.

        Raises
        ------
        OutputError
            When the file cannot be written.
        MissingDependencyError
            When no C compiler is found to link with.
        """
        path = Path(path)
        bundle.write(path, *self._saved())
        return path

    def save_folder(self, path: str | os.PathLike[str], example: Example | None = None) -> Path:
        """Write the model to a folder: the same for `xnortvm.load`, and all that C and C++ need.

        Parameters
        ----------
        path : path-like
            A folder that holds such a model, or nothing, is replaced once the new one is complete.
        example : Example, optional
            Inputs and expected outputs, for the self-test on the board and the C programs.

        Returns
        -------
        Path
            The folder.

        Raises
        ------
        OutputError
            When the folder holds other files or cannot be written.
        MissingDependencyError
            When no linker is found.
        TargetError
            When the model is for a GPU.
        """
        if self._running.machine.arch:
            raise TargetError(
                f"the C programs of a folder run on a CPU, and the model was compiled for "
                f"{self.target_name}; save it to one file, for xnortvm.load"
            )
        path = Path(path)
        manifest, members = self._saved()
        bundle.write_folder(path, *folder.contents(manifest, members, self._objects(), example))
        return path

    def _saved(self) -> tuple[dict[str, Any], dict[str, bytes]]:
        """Return the manifest and the members of a saved model, be it a file or a folder."""
        library = self.library
        manifest = {
            **self._manifest(),
            "num_threads": self.num_threads,
            "glibc": glibc_of(library),
            "copies_outputs": self._running.copies_outputs,
        }
        report = json.dumps(self.report.to_json(), indent=1).encode()
        return manifest, {bundle.LIBRARY: library, bundle.REPORT: report}

    def _manifest(self) -> dict[str, Any]:
        return {
            "interface": self._interface.to_json(),
            "target": self.target_name,
            "machine": self._running.machine.to_json(),
        }

    def save_freestanding(
        self, path: str | os.PathLike[str], *, prefix: str = "model"
    ) -> Freestanding:
        """Write the model as one object file with a C header, for programs without TVM.

        docs/freestanding.md says what is in the folder and how to use it. The code runs on one
        thread, and is that of `save` otherwise: it computes the same bits.

        Parameters
        ----------
        path : path-like
            A folder that holds a saved model, or nothing, is replaced once the new one is complete.
        prefix : str
            Begins the names of files, functions and macros, so that several models can be linked
            into one program.

        Returns
        -------
        Freestanding
            Its `sizes` are the bytes of code, weights and workspace.

        Raises
        ------
        ModelError, TargetError
            When prefix, model or target have no freestanding form, or the model was loaded.
        CompileError
            When the model cannot do without TVM's runtime.
        OutputError
            When the folder cannot be written.

        Examples
        --------
        >>> compiled.save_freestanding("out", prefix="net").sizes  # doctest: +SKIP
        {'code': 50422, 'weights': 705564, 'workspace': 124352}
        """
        if self._freestanding is None:
            raise ModelError(
                "a loaded model holds code for TVM's runtime alone; compile the model again and "
                "call save_freestanding on what xnortvm.compile returns"
            )
        path = Path(path)
        bundle.check_folder(path)
        made, expected = self._freestanding(self, prefix)
        manifest = {**self._manifest(), **made.manifest()}
        bundle.write_folder(path, manifest, made.members(expected), made.texts())
        return made

    def _one_sample(
        self, inputs: Sequence[Any] | None
    ) -> AbstractContextManager[tuple[Any, list[Any]]]:
        """Own the virtual machine, and get it and the arguments of ``main`` for one sample."""
        values = arguments.given_or_random(self.inputs, inputs)
        self(*values)  # checks the values and warms the caches
        return self._running.alone(first_sample(self.inputs, values))

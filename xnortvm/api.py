# SPDX-License-Identifier: Apache-2.0
"""The public functions: the stages in order, nothing else."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xnortvm import pipeline
from xnortvm import verify as verification
from xnortvm._tvm import IRModule
from xnortvm.errors import ModelError, TargetError
from xnortvm.frontend import Imported, import_model
from xnortvm.frontend.batch import one_sample
from xnortvm.frontend.unsupported import collected, refuse
from xnortvm.patterns import ZeroPolicy
from xnortvm.report import Report
from xnortvm.runtime.build import build
from xnortvm.runtime.load import load
from xnortvm.runtime.module import CompiledModel
from xnortvm.stem import check_stem, choose_stem
from xnortvm.target import Target, resolve
from xnortvm.transform.buildable import without_code
from xnortvm.transform.kernel_rows import add_kernels, planned_activations
from xnortvm.trunk import check_trunk, choose_trunk
from xnortvm.tuning.find import choosing
from xnortvm.tuning.kernels import kernels_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from xnortvm.freestanding import Freestanding

__all__ = ["compile", "explain", "load"]

log = logging.getLogger("xnortvm")


def compile(  # noqa: A001 - as torch.compile and tvm.compile
    model: Any,
    *,
    target: Any = "llvm",
    example_inputs: Any = None,
    dynamic_batch: bool = False,
    dynamic_shapes: Any = None,
    num_threads: int | None = None,
    sign_zero: str | None = None,
    stem: str = "exact",
    trunk: str = "fp32",
    verify: bool | Sequence[Any] | None = None,
    records: Any = None,
    cuda_graph: bool = False,
    dump_dir: str | Path | None = None,
) -> CompiledModel:
    """Compile a model with binary layers.

    Parameters
    ----------
    model : torch.nn.Module, ExportedProgram, path, onnx.ModelProto, or IRModule
        A module needs `example_inputs`; a path leads to a ``.pt2`` or ``.onnx`` file.
    target : str, dict, tvm.target.Target or xnortvm.target.Target
        ``"llvm"`` is this host with all its features; ``"llvm -mcpu=cortex-a72"``,
        ``"cuda -arch=sm_90"``, or a preset such as ``"rpi4"`` (`xnortvm.targets`).
    example_inputs : tensor, or tuple of tensors
        Positional arguments of the model; they fix its input shapes.
    dynamic_batch : bool
        Dimension 0 of the inputs may have any extent at each call; `example_inputs` still give the
        other ones. Models exported with a dynamic batch have one without asking.
    dynamic_shapes : dict or tuple, optional
        For a ``torch.nn.Module``, what ``torch.export.export`` takes under this name, such as
        ``{"x": {0: torch.export.Dim("batch", max=64)}}``. Only dimension 0 may be dynamic.
    num_threads : int, optional
        CPU threads that a call may use; 1 unless given here or in the target.
    sign_zero : {None, "+1"}
        ``torch.sign(0)`` is 0, a third value. By default a layer whose zeros happen on purpose
        is computed twice, which is exact, and the report says why; ``"+1"`` takes them as +1.
    stem : {"exact", "winograd", "bf16", "int8"}
        How float convolutions that no other layer precedes are computed. ``"winograd"`` is fp32
        with fewer products; ``"bf16"`` and ``"int8"`` round image and weights (the range of an
        int8 image is that of the example inputs) and need AVX512-BF16 and VNNI. The report states
        the error measured on the example inputs, and why a layer that does not fit stays exact.
    trunk : {"fp32", "fp16"}
        For CUDA targets: how floats that travel between kernels of binary layers, the residual
        trunk above all, lie in memory. ``"fp16"`` halves their bytes; each value is rounded when it
        is stored, by at most 2⁻¹¹ of itself, and beyond 65504 becomes an infinity.
    verify : bool or tuple of arrays, optional
        Run the compiled model and the source model, on these inputs or on the example inputs, and
        compare them layer by layer: the integers of binary layers exactly, floats by the bound of
        docs/semantics.md. By default that is done when the target is this host; False leaves it
        out.
    records : path, Records or bool, optional
        Tuning records (docs/tuning.md): a ``.jsonl`` file, or a folder with one for each CPU. By
        default those that `tune` made and those that come with xnortvm, or what the environment
        variable ``XNORTVM_RECORDS`` names; False leaves every kernel to its rule.
    cuda_graph : bool
        For CUDA targets: the first call records its launches as CUDA graphs, and later ones replay
        them: with a small batch a GPU waits for launches.
    dump_dir : path, optional
        Folder that gets the module after each phase, for bug reports.

    Returns
    -------
    CompiledModel
        Call it with NumPy arrays or torch tensors.

    Raises
    ------
    ModelError, UnsupportedOperatorError
        When the model cannot be imported.
    TargetError
        When the target is unknown, or has no instructions for `stem` or `trunk`.
    CompileError
        When a stage of the compiler fails.
    VerificationError
        When `verify` finds a difference.

    Examples
    --------
    >>> import numpy as np, torch
    >>> class Binary(torch.nn.Linear):
    ...     def forward(self, x):
    ...         x = torch.where(x >= 0, 1.0, -1.0)
    ...         return torch.nn.functional.linear(x, self.weight.sign(), self.bias)
    >>> compiled = compile(Binary(64, 8), example_inputs=torch.zeros(1, 64))
    >>> compiled.report.num_binary_ops
    1
    >>> compiled(np.ones((1, 64), "float32")).shape
    (1, 8)
    """
    resolved = resolve(target, num_threads=num_threads)
    check_stem(stem, resolved)
    check_trunk(trunk, resolved)
    if cuda_graph and resolved.kind != "cuda":
        raise TargetError(
            f"cuda_graph=True is for GPUs and {resolved.name} is a CPU; leave it out, or name a "
            "target such as 'cuda -arch=sm_90a'"
        )
    checks = _checks(verify, resolved)
    report = _report(resolved)
    with collected() as unsupported, _timed(report, "import"):
        imported = _read(model, example_inputs, dynamic_batch, dynamic_shapes)
        unsupported += without_code(imported.mod, imported.sources)
    refuse(unsupported)
    with _timed(report, "passes"):
        phases = pipeline.graph_phases(report, _policy(sign_zero))
        exposed = verification.expose(imported.mod) if checks else None
        lowered = pipeline.run(exposed.mod if exposed else imported.mod, phases[:-1], dump_dir)
        graph = verification.drop(lowered, exposed) if exposed else lowered
        graph = pipeline.run(graph, phases[-1:], dump_dir)
        graph = choose_stem(graph, stem, _arrays(imported, example_inputs), report)
        graph = choose_trunk(graph, trunk, report)
        kernels = kernels_of(graph, resolved, choosing(records, resolved), dump_dir)
    add_kernels(report, kernels)
    _add_sources(report, imported)
    report.bytes_activations = planned_activations(kernels)
    if imported.batch is not None:
        report.notes.append(f"any {imported.batch}; sizes and MACs are those of one sample")
    with _timed(report, "build"):
        built = build(kernels, resolved, imported.batch, cuda_graph=cuda_graph)
        freestanding = partial(_freestanding, graph, resolved)
        compiled = CompiledModel.from_built(built, report, freestanding)
    if exposed is not None and _worth(verify, report):
        with _timed(report, "verify"):
            made = verification.Lowered(exposed, lowered, graph, imported.batch)
            given = None if isinstance(verify, bool) else verify
            checked = compiled
            if cuda_graph:  # a recorded graph shows nothing of its kernels: check the same without
                built = build(kernels, resolved, imported.batch)
                checked = CompiledModel.from_built(built, report)
            verification.verify(checked, made, imported.twin, report, given)
    log.info("%s: %s", resolved.name, report.summary())
    log.debug("seconds: %s", ", ".join(f"{k} {v:.2f}" for k, v in report.seconds.items()))
    return compiled


def explain(
    model: Any,
    *,
    target: Any = "llvm",
    example_inputs: Any = None,
    dynamic_batch: bool = False,
    dynamic_shapes: Any = None,
    sign_zero: str | None = None,
    stem: str = "exact",
    trunk: str = "fp32",
) -> Report:
    """Say what would become binary and why the rest would not, without compiling.

    Works for every target, and for models with operators that cannot be compiled: these are listed
    all at once in `Report.unsupported`.

    Parameters
    ----------
    model, target, example_inputs, dynamic_batch, dynamic_shapes, sign_zero, stem, trunk
        As in `compile`.

    Returns
    -------
    Report
    """
    resolved = resolve(target)
    check_stem(stem, resolved)
    check_trunk(trunk, resolved)
    report = _report(resolved)
    with collected() as unsupported, _timed(report, "import"):
        imported = _read(model, example_inputs, dynamic_batch, dynamic_shapes)
        unsupported += without_code(imported.mod, imported.sources)
    with _timed(report, "passes"):
        graph = pipeline.run(imported.mod, pipeline.graph_phases(report, _policy(sign_zero)))
    graph = choose_stem(graph, stem, _arrays(imported, example_inputs), report)
    choose_trunk(graph, trunk, report)
    _add_sources(report, imported)
    report.unsupported = [asdict(operator) for operator in unsupported]
    return report


def lower(model: Any, *, example_inputs: Any = None, sign_zero: str | None = None) -> IRModule:
    """Return the Relax module after every target-independent phase, for looking at it."""
    imported = _read(model, example_inputs)
    return pipeline.run(imported.mod, pipeline.graph_phases(Report(), _policy(sign_zero)))


def _freestanding(
    graph: IRModule, target: Target, compiled: CompiledModel, prefix: str
) -> tuple[Freestanding, list[Any]]:
    """Make a model freestanding, and compute on this machine what its example has to find.

    Parameters
    ----------
    graph : IRModule
        After every phase that does not know the target.
    target : Target
    compiled : CompiledModel
        The same model for TVM's runtime.
    prefix : str
    """
    from xnortvm import freestanding

    freestanding.check_target(target)
    freestanding.check_interface(compiled.inputs, compiled.outputs)
    one = resolve(target, num_threads=1)
    kernels = pipeline.run(graph, pipeline.kernel_phases(one))
    made = freestanding.make(kernels, compiled.inputs, compiled.outputs, one, prefix)
    if not one.is_host:
        here = resolve("llvm")
        kernels = pipeline.run(graph, pipeline.kernel_phases(here))
        compiled = CompiledModel.from_built(build(kernels, here), Report(target=here.name))
    outputs = compiled(*freestanding.sample_inputs(compiled.inputs))
    return made, list(outputs) if isinstance(outputs, tuple) else [outputs]


def _read(
    model: Any, example_inputs: Any, dynamic_batch: bool = False, dynamic_shapes: Any = None
) -> Imported:
    """Import a model; one with a dynamic batch is reduced to what happens to one sample."""
    return one_sample(
        import_model(
            model, example_inputs, dynamic_batch=dynamic_batch, dynamic_shapes=dynamic_shapes
        )
    )


def _add_sources(report: Report, imported: Imported) -> None:
    """Give every row the line of the user's code; a shared module's calls have one line."""
    for row in report.layers:
        row.source = imported.sources.get(row.name) or imported.sources.get(
            row.name.partition("#")[0], ""
        )


def _report(target: Target) -> Report:
    return Report(target=target.name, isa=target.isa, num_threads=target.num_threads)


def _policy(sign_zero: str | None) -> ZeroPolicy:
    if sign_zero not in (None, "+1"):
        raise ModelError(
            f'sign_zero is {sign_zero!r}; leave it out to keep torch.sign(0) = 0, or pass "+1"'
        )
    return ZeroPolicy(accept=sign_zero == "+1")


def _arrays(imported: Imported, inputs: Any) -> list[Any] | None:
    """Return inputs as NumPy arrays; None when there is not one for each input of the model."""
    import numpy as np

    given = inputs if isinstance(inputs, (tuple, list)) else [inputs]
    if any(isinstance(value, (tuple, list, dict)) for value in given):
        return None  # nested arguments: which tensor is which input, only the importer knows
    arrays = [
        value.detach().cpu().numpy() if hasattr(value, "detach") else np.asarray(value)
        for value in given
        if value is not None
    ]
    if len(arrays) != len(imported.input_names):
        return None
    if imported.batch is None:
        return arrays
    return [  # what is compiled runs for one sample after the other
        array[:1] if str(param.name) in imported.batch.inputs else array
        for param, array in zip(imported.mod["main"].params, arrays, strict=True)
    ]


def _checks(verify: Any, target: Target) -> bool:
    """Whether to verify: by default where the compiled code runs."""
    if verify is None:
        return target.is_host
    if verify is False:
        return False
    if not target.is_host:
        raise TargetError(
            f"verify runs the compiled kernels and {target.name} is not this machine; "
            "compile without verify and verify on the device"
        )
    return True


#: Multiply-accumulates up to which a model is verified unasked: some seconds of NumPy.
_VERIFIED_MACS = 20e9


def _worth(verify: Any, report: Report) -> bool:
    """Leave large models unverified unless that was asked for, and say so."""
    macs = report.binary_macs + report.float_macs
    if verify is not None or macs <= _VERIFIED_MACS:
        return True
    note = f"not verified: {macs / 1e9:.0f} G MACs would take long; verify=True does it"
    report.notes.append(note)
    log.info("%s", note)
    return False


@contextmanager
def _timed(report: Report, stage: str) -> Iterator[None]:
    start = time.perf_counter()
    yield
    report.seconds[stage] = round(time.perf_counter() - start, 3)

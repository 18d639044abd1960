# SPDX-License-Identifier: Apache-2.0
"""The compiler on one page: its phases in order, one line for each pass.

``relax.get_pipeline("xnortvm")`` gives the same passes, followed by the lowering to TVM's virtual
machine.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from xnortvm._tvm import IRModule, TvmTarget, ir_transform, relax, relax_transform, tvm
from xnortvm.errors import CompileError, TargetError, XnortvmError
from xnortvm.frontend.fold import fold_constants
from xnortvm.ops import legalize_map
from xnortvm.patterns import ZeroPolicy
from xnortvm.report import Report
from xnortvm.runtime.build import lowering_passes
from xnortvm.schedules import ApplySchedules
from xnortvm.schedules.isa import isa_of
from xnortvm.target import Target, resolve
from xnortvm.transform.activation import canonicalize_prelu
from xnortvm.transform.affine import fold_affine
from xnortvm.transform.batch_norm import batch_norm_to_affine
from xnortvm.transform.clamp import clamp_integers
from xnortvm.transform.fuse_kernels import fuse_kernels
from xnortvm.transform.group import group_epilogues
from xnortvm.transform.layer_sizes import AddLayerSizes
from xnortvm.transform.layout import channels_last
from xnortvm.transform.lift_constants import lift_constants
from xnortvm.transform.lower_binary import LowerBinary
from xnortvm.transform.scaled_sign import sink_sign_scales
from xnortvm.transform.sign import canonicalize_sign
from xnortvm.transform.stem import mark_stem
from xnortvm.transform.threshold import FuseThresholds
from xnortvm.transform.thresholds_in_base import thresholds_in_base

Pass = Callable[[IRModule], IRModule]


class Phase(NamedTuple):
    """Passes that belong together; the module after each phase can be dumped."""

    name: str
    passes: list[Pass]


def graph_phases(report: Report, policy: ZeroPolicy) -> list[Phase]:
    """What happens to a model whatever the target: here every decision is taken."""
    return [
        Phase(
            "normalise",
            [
                fold_constants,  # leftovers of the import: transposed weights, reshaped biases
                batch_norm_to_affine,  # before signs: it is what most of them read
                canonicalize_prelu,  # before signs: `where(x > 0, …)` is not a sign
                canonicalize_sign,  # every idiom → xnortvm.sign, so patterns see one spelling
                channels_last,  # before matching: bits are packed along the last dimension
                sink_sign_scales,  # after the transposes are gone: layers see the scale last
            ],
        ),
        Phase("lower", [LowerBinary(report, policy)]),
        Phase(
            "fuse",
            [
                FuseThresholds(report),  # on the user's own operators, before anything merges them
                fold_affine,  # Γ, weights' magnitudes and batch norm into one scale and shift
                AddLayerSizes(report),  # last: what the kernels will carry
            ],
        ),
    ]


#: On CPUs the first float convolutions read the image as it comes, see `xnortvm.stem`.
STEM: dict[str, list[Pass]] = {"llvm": [mark_stem], "cuda": []}

#: On AArch64 limits are cheaper where no value is NaN.
CLAMP: dict[str, list[Pass]] = {"neon": [clamp_integers]}

#: On GPUs each instruction for an output counts more than the constants of a layer.
THRESHOLDS: dict[str, list[Pass]] = {"llvm": [], "cuda": [thresholds_in_base]}


def kernel_phases(target: Target, decide: Pass | None = None) -> list[Phase]:
    """How the kernels are made for one target.

    Parameters
    ----------
    target : Target
    decide : pass, optional
        Gives kernels decisions of their own, see `xnortvm.tuning.decide`; the rules' without.
    """
    return [
        Phase(
            "kernels",
            [
                *STEM[target.kind],
                *CLAMP.get(target.isa, []),  # before kernels: it looks for the accumulator
                *THRESHOLDS[target.kind],  # before kernels, too
                group_epilogues,  # early: nothing else looks into kernels
                *([] if decide is None else [decide]),  # before operators become TIR
                relax_transform.LegalizeOps(legalize_map(isa_of(target))),
                lift_constants,  # after legalising, which reads the weights
                fuse_kernels,
                relax_transform.DeadCodeElimination(["main"]),
            ],
        ),
        Phase("schedule", [ApplySchedules(target)]),
    ]


def run(mod: IRModule, phases: list[Phase], dump_dir: str | Path | None = None) -> IRModule:
    """Apply phases in order.

    Parameters
    ----------
    mod : IRModule
    phases : list of Phase
    dump_dir : path, optional
        Folder that gets one file with the module after each phase.

    Raises
    ------
    CompileError
        When a pass fails; says which, and what to send.
    """
    with ir_transform.PassContext(opt_level=3):
        for phase, transform in _steps(phases):
            try:
                mod = transform(mod)
            except XnortvmError:
                raise
            except Exception as error:
                where = getattr(transform, "__name__", type(transform).__name__)
                lines = str(error).strip().splitlines() or [type(error).__name__]
                raise CompileError(
                    f"the compiler failed in {phase.name} ({where}): {lines[-1]}; compile again "
                    "with dump_dir= and report the last module in that folder"
                ) from error
            if dump_dir is not None and transform is phase.passes[-1]:
                _dump(mod, phase, Path(dump_dir))
    return mod


def _steps(phases: list[Phase]) -> Iterator[tuple[Phase, Pass]]:
    for phase in phases:
        for transform in phase.passes:
            yield phase, transform


def _dump(mod: IRModule, phase: Phase, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    number = len(list(folder.glob("*.py"))) + 1
    (folder / f"{number:02d}_{phase.name}.py").write_text(mod.script())


@relax.register_pipeline("xnortvm")
def pipeline() -> ir_transform.Pass:
    """The whole compiler as one Relax pass, for ``relax.build(mod, target, "xnortvm")``.

    The target is the one that the module is built for, and has to name its CPU: TVM's own
    ``"llvm"`` is a CPU without extensions; ``xnortvm.target.resolve("llvm").tvm`` is this host.
    """

    @tvm.transform.module_pass(opt_level=0, name="xnortvm")
    def compile_module(mod: IRModule, _: ir_transform.PassContext) -> IRModule:
        current = TvmTarget.current(allow_none=True)
        if current is None or not current.attrs.get("mcpu"):
            raise TargetError(
                f"the target {current} does not name a CPU, so its vector instructions are "
                'unknown; pass xnortvm.target.resolve("llvm").tvm to relax.build for this host'
            )
        mod = run(mod, graph_phases(Report(), ZeroPolicy()))
        mod = run(mod, kernel_phases(resolve(current)))
        return ir_transform.Sequential(lowering_passes())(mod)

    return compile_module

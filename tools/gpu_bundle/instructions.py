# SPDX-License-Identifier: Apache-2.0
"""How many instructions a direct convolution on Hopper issues for an output: no GPU needed.

    python -m xnortvm.tools.gpu_bundle.instructions

Where a sum is short the products are not what takes the time, but what is done around them, and
those instructions can be counted: `wgmma_conv` does each tile of positions in one turn of a loop
without inner loops. A warpgroup issues them, one of each of its four warps in a clock at best; its
products take the clocks of the last column at least, an estimate from the data sheet. Both happen
at the same time, for different warpgroups: the larger number is the bound, and gives the rate that
an H200 cannot exceed, positions without an output and zeros in K counted as nothing.

Needs nvcc, and cuobjdump (``pip install nvidia-cuda-cuobjdump``).
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from xnortvm import ops, pipeline
from xnortvm._tvm import IRModule, relax, tirx, tvm
from xnortvm.errors import CompileError, MissingDependencyError, XnortvmError
from xnortvm.graph.dataflow import const
from xnortvm.ops.problem import Problem
from xnortvm.patterns import ZeroPolicy
from xnortvm.report import Report
from xnortvm.runtime.build import device_compiler
from xnortvm.runtime.cuda_compiler import find_cuda_compiler
from xnortvm.schedules.cuda.patch_plan import ROWS, WARPGROUP, Plan, plan_of
from xnortvm.target import resolve
from xnortvm.tools.gpu_bundle.layers import LAYERS, Layer
from xnortvm.tools.gpu_bundle.roofline import CHIPS
from xnortvm.tools.layer_modules import EPILOGUES, function

ARCH = "sm_90a"
BATCH = 256
_LINE = re.compile(r"^\s+/\*([0-9a-f]{4,6})\*/\s+(.+?)\s*;", re.MULTILINE)
_JUMP = re.compile(r"\bBRA(?:\.\w+)* .*?0x([0-9a-f]+)")
_GUARD = re.compile(r"^@!?U?P\w+\s+")


@dataclass(frozen=True)
class Code:
    """The machine code of one kernel.

    Attributes
    ----------
    lines : list of (int, str)
        Address and text of each instruction.
    registers, spilled : int
        Registers of a thread, and bytes that it stores because they ran out.
    """

    lines: list[tuple[int, str]]
    registers: int
    spilled: int

    @property
    def turn(self) -> list[str]:
        """The instructions of the longest loop: names, in order."""
        jumps = ((at, _JUMP.search(text)) for at, text in self.lines)
        loops = [(int(jump[1], 16), at) for at, jump in jumps if jump and int(jump[1], 16) < at]
        first, last = max(loops, key=lambda loop: loop[1] - loop[0], default=(0, -1))
        return [_name(text) for at, text in self.lines if first <= at <= last]


def _name(text: str) -> str:
    return _GUARD.sub("", text).split()[0]


def disassemble(source: str, arch: str = ARCH) -> Code:
    """Return the machine code of CUDA source that has one kernel.

    Raises
    ------
    MissingDependencyError
        When there is no nvcc or no cuobjdump.
    CompileError
        When nvcc refuses the source.
    """
    compiler, cuobjdump = find_cuda_compiler(), _cuobjdump()
    if compiler.name != "nvcc" or cuobjdump is None:
        raise MissingDependencyError(
            "machine code is read by nvcc and cuobjdump, and one of them is missing; install the "
            "CUDA toolkit 13, and run: pip install nvidia-cuda-cuobjdump"
        )
    number = arch.removeprefix("sm_")
    with tempfile.TemporaryDirectory(prefix="xnortvm-instructions-") as folder:
        text, made = Path(folder, "kernel.cu"), Path(folder, "kernel.cubin")
        text.write_text(source)
        generate = f"-gencode=arch=compute_{number},code=sm_{number}"
        options = ["-cubin", generate, "-O3", "-std=c++17", "-Xptxas=-v", "-w"]
        said = _run([compiler.path, *options, "-o", str(made), str(text)])
        code = _run([cuobjdump, "--dump-sass", str(made)])
    lines = [(int(at, 16), line) for at, line in _LINE.findall(code)]
    registers = re.search(r"Used (\d+) registers", said)
    spilled = re.search(r"(\d+) bytes spill stores", said)
    return Code(lines, *(int(found[1]) if found else 0 for found in (registers, spilled)))


def _run(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    said = done.stderr + done.stdout
    if done.returncode != 0:
        raise CompileError(f"{Path(command[0]).name} failed: {(said.splitlines() or ['?'])[0]}")
    return said


def _cuobjdump() -> str | None:
    """Return the program on the search path, in CUDA's folder or in NVIDIA's Python packages."""
    beside = [Path("/usr/local/cuda/bin"), *(Path(each, "nvidia/cu13/bin") for each in sys.path)]
    found = [str(folder / "cuobjdump") for folder in beside if (folder / "cuobjdump").is_file()]
    return shutil.which("cuobjdump") or next(iter(found), None)


def problem_of(layer: Layer, batch: int = BATCH) -> Problem:
    """Return what a layer counts."""
    pad = layer.kernel // 2
    return Problem(
        *(batch, layer.size, layer.size, layer.channels, layer.outputs),
        kernel=(layer.kernel, layer.kernel),
        strides=(layer.stride, layer.stride),
        padding=(pad, pad, pad, pad),
    )


def source_of(layer: Layer, epilogue: str, batch: int = BATCH) -> str:
    """Return the CUDA source that the compiler makes of a layer and its epilogue."""
    made = problem_of(layer, batch)
    rng = np.random.default_rng(0)
    geometry: dict[str, Any] = {"strides": made.strides, "padding": made.padding}
    geometry["dilation"] = made.dilation
    shape = (layer.outputs, *made.kernel, layer.channels)
    signs = rng.choice(np.array([-1, 1], np.int8), shape)
    base = ops.border_base(signs, (layer.size, layer.size), **geometry, pad_value=0)
    scale, shift = rng.standard_normal((2, layer.outputs), dtype=np.float32)
    weights, kind = const(ops.pack(signs < 0)), EPILOGUES[epilogue]

    def body(emit: Any, x: Any) -> Any:
        call = ops.bconv2d(x, weights, const(base), channels=layer.channels, **geometry)
        value = emit(relax.op.astype(emit(call), "float32"))
        outputs = kind(emit, value, const(scale), const(shift))
        return outputs[0] if len(outputs) == 1 else relax.Tuple(outputs)

    bits = np.zeros((batch, layer.size, layer.size, made.words), np.uint32)
    target = resolve(f"cuda -arch={ARCH}")
    thresholds = pipeline.graph_phases(Report(), ZeroPolicy())[-1]
    phases = [thresholds, *pipeline.kernel_phases(target)]
    mod = pipeline.run(function([bits], body), phases)
    (kernel,) = (func for func in mod.functions.values() if isinstance(func, tirx.PrimFunc))
    with device_compiler(target) as resources, target.tvm:
        tvm.compile(IRModule({"main": kernel.with_attr("global_symbol", "main")}), target.tvm)
    return str(resources.source)


def outputs_of_a_turn(plan: Plan) -> int:
    """Return the outputs that a thread computes of a tile."""
    return ROWS * plan.tile.columns // WARPGROUP


def most(layer: Layer, plan: Plan, clocks: int, batch: int) -> float:
    """Return the 10¹⁵ operations in a second of an H200 that does nothing but such tiles."""
    chip = CHIPS["h200"]
    seconds = plan.tiles * plan.column_tiles * clocks / (chip.sms * chip.hertz)
    return 2 * layer.macs(batch) / seconds / 1e15


def render(layers: Sequence[Layer] = LAYERS, batch: int = BATCH) -> str:
    """Return the table as Markdown."""
    heads = ["layer", "epilogue", "columns", "registers", "spilled", "instructions of a tile"]
    heads += ["for an output", "clocks of its products", "POPS at most"]
    lines = [f"| {' | '.join(heads)} |", "|" + "---|" * len(heads)]
    for layer in layers:
        plan = plan_of(problem_of(layer, batch))
        for epilogue in ("bits", "clamped and bits"):
            code = disassemble(source_of(layer, epilogue, batch))
            turn = len(code.turn)
            products = plan.patch.steps * plan.tile.columns // 2
            share = f"{turn / outputs_of_a_turn(plan):.1f}"
            row = [layer.name, epilogue, plan.tile.columns, code.registers, code.spilled, turn]
            row += [share, products, f"{most(layer, plan, max(turn, products), batch):.1f}"]
            lines.append(f"| {' | '.join(map(str, row))} |")
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """Run as a command."""
    parser = argparse.ArgumentParser(prog="python -m xnortvm.tools.gpu_bundle.instructions")
    parser.add_argument("--batch", type=int, default=BATCH)
    args = parser.parse_args(argv)
    try:
        print(render(batch=args.batch))
    except XnortvmError as error:
        parser.error(str(error))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

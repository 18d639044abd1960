# SPDX-License-Identifier: Apache-2.0
"""Run the CUDA source that TVM generates on a CPU (`device.hpp`), from NumPy arrays.

`Program` takes a PrimFunc apart as TVM does for a GPU: device kernels, and the launches of the host
function around them. The kernels are compiled with g++ against ``device.hpp``; each launch then
runs every thread of every block. Outputs and workspace hold noise before. A kernel that reads or
writes outside of an array, or misaligned, waits at a barrier that others do not reach, or uses an
instruction that is not emulated raises `EmulatorError` or `UnknownInstructionError`.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tests.cuda.ptx import translate
from xnortvm._tvm import IRModule, TvmTarget, ir, tirx, tvm_ffi

HERE = Path(__file__).parent
BUILD = HERE.parents[1] / "build" / "cuda-emulator"
FLAGS = [
    "-std=c++20",
    "-O0",
    "-w",
    "-fpermissive",
    "-ffp-contract=off",
    "-fno-strict-aliasing",
    "-shared",
    "-fPIC",
]

#: Where a GPU puts arrays, and where arrays end, so that vector accesses behave as there.
ALIGNMENT = 256


class EmulatorError(RuntimeError):
    """A kernel did what a GPU would not have survived, or did wrong."""


class Launch(NamedTuple):
    """One launch: the kernel, the buffers that it takes, and its shape."""

    kernel: str
    buffers: tuple[str, ...]
    grid: tuple[int, int, int]
    block: tuple[int, int, int]
    shared: int


def has_compiler() -> bool:
    """Return whether there is a g++."""
    return shutil.which("g++") is not None


def cuda_target(arch: str) -> Any:
    """Return a target for an architecture that needs neither a device nor a driver."""
    limits = {
        "max_threads_per_block": 1024,
        "thread_warp_size": 32,
        "max_shared_memory_per_block": 49152,
        "registers_per_block": 65536,
    }
    return TvmTarget({"kind": "cuda", "arch": arch, **limits}, host="llvm")


def lower(func: Any, target: Any) -> tuple[Any, Any]:
    """Return the host function and the module of device kernels of one PrimFunc."""
    host, device = lower_all({"main": func}, target)
    return host["main"], device


def lower_all(funcs: Mapping[str, Any], target: Any) -> tuple[Any, Any]:
    """Return the modules of host functions and of device kernels of PrimFuncs, by their names."""
    from tvm.tirx.build import split_host_device_mods

    with target:
        pipeline, _, device_passes = tirx.get_default_tir_pipeline(target)
        mod = IRModule({k: func.with_attr("global_symbol", k) for k, func in funcs.items()})
        mod = pipeline(tirx.transform.BindTarget(target)(mod))
        host, devices = split_host_device_mods(mod)
        if len(devices) != 1:
            raise ValueError(f"{len(devices)} device modules instead of one")
        (device,) = devices.values()
        return host, device_passes()(device)


def device_source(device: Any, target: Any) -> str:
    """Return the CUDA source of lowered kernels, without calling a CUDA compiler."""
    name = "tvm_callback_cuda_compile"
    compiler = tvm_ffi.get_global_func(name, allow_missing=True)
    source: list[str] = []

    def keep(code: str, *_: Any) -> bytes:
        source.append(str(code))
        return b"\x7fELF"

    tvm_ffi.register_global_func(name, keep, override=True)
    try:
        with target:
            built = tvm_ffi.get_global_func("target.build.cuda")(device, target)
        return source[0] if source else str(built.inspect_source())
    finally:
        if compiler is not None:
            tvm_ffi.register_global_func(name, compiler, override=True)


def launches(host: Any) -> tuple[list[Launch], dict[str, tuple[tuple[int, ...], str]]]:
    """Return the launches of a lowered host function, and shape and type of its workspaces."""
    found: list[Launch] = []
    workspaces: dict[str, tuple[tuple[int, ...], str]] = {}

    def visit(node: Any) -> None:
        kind = type(node).__name__
        if kind in ("AllocBuffer", "Allocate"):
            buffer = node.buffer
            shape = tuple(int(dim) for dim in buffer.shape)
            workspaces[_name(buffer)] = (shape, str(buffer.dtype))
        if kind == "Call" and str(getattr(node.op, "name", "")) == "tirx.call_ffi_kernel":
            found.append(_launch(node))

    def walk(stmt: Any) -> None:
        visit(stmt)
        for part in ("seq", "body", "then_case", "else_case", "value"):
            child = getattr(stmt, part, None)
            for each in child if part == "seq" and child is not None else [child]:
                if isinstance(each, tirx.Stmt | ir.Call):
                    walk(each)

    walk(host.body)
    return found, workspaces


def _name(variable: Any) -> str:
    return str(getattr(variable, "name", variable))


def _launch(call: Any) -> Launch:
    params = [str(name) for name in call.attrs["launch_params"]]
    kernel, *rest = call.args
    buffers, extents = rest[: len(rest) - len(params)], rest[len(rest) - len(params) :]
    sizes = dict(zip(params, map(int, extents), strict=True))
    grid, block = (
        tuple(sizes.get(f"{k}.{a}", 1) for a in "xyz") for k in ("blockIdx", "threadIdx")
    )
    return Launch(
        str(kernel.value),
        tuple(_name(_variable(b)) for b in buffers),
        grid,  # type: ignore[arg-type]
        block,  # type: ignore[arg-type]
        sizes.get("tirx.use_dyn_shared_memory", 0),
    )


def _variable(argument: Any) -> Any:
    while isinstance(argument, ir.Call):  # a view or a cast of the pointer
        argument = argument.args[0]
    return argument


@dataclass
class Program:
    """A PrimFunc compiled for the emulator.

    Parameters
    ----------
    func : tirx.PrimFunc
        Scheduled for a GPU: its loops bound to blocks and threads.
    arch : str
        Such as ``"sm_80"``.
    """

    func: Any
    arch: str

    def __post_init__(self) -> None:
        target = cuda_target(self.arch)
        host, device = lower(self.func, target)
        self.source = device_source(device, target)
        self.launches, self.workspaces = launches(host)
        self._library = compile_source(self.source)

    def run(self, *inputs: NDArray[Any], early: bool = False) -> list[NDArray[Any]]:
        """Run on the inputs and return the outputs: the parameters that are left.

        Parameters
        ----------
        inputs : arrays
            In the order of the PrimFunc's parameters.
        early : bool
            Run threads in reverse, asynchronous work at once instead of as late as possible.
        """
        params = list(self.func.params)
        arrays: dict[str, NDArray[Any]] = {}
        for index, param in enumerate(params):
            shape, dtype = tuple(int(dim) for dim in param.shape), str(param.dtype)
            if index < len(inputs):
                given = inputs[index]
                if given.shape != shape or str(given.dtype) != dtype:
                    got = f"{given.shape} {given.dtype}"
                    raise ValueError(f"{param.name} is {got}, not {shape} {dtype}")
                arrays[_name(param)] = aligned(given)
            else:
                arrays[_name(param)] = _noise(shape, dtype)
        for name, (shape, dtype) in self.workspaces.items():
            arrays[name] = _noise(shape, dtype)
        for each in self.launches:
            launch(self._library, each, [arrays[name] for name in each.buffers], early=early)
        return [arrays[_name(param)] for param in params[len(inputs) :]]


def launch(
    library: ctypes.CDLL, launched: Launch, arrays: Sequence[NDArray[Any]], *, early: bool = False
) -> None:
    """Run one kernel of a library of `compile_source` on arrays, which it changes.

    Raises
    ------
    EmulatorError
        With the block and the thread that did what a GPU does not allow.
    """
    function = getattr(library, f"run_{launched.kernel}")
    function.restype = ctypes.c_char_p
    count = len(arrays)
    error = function(
        (ctypes.c_void_p * count)(*(array.ctypes.data for array in arrays)),
        (ctypes.c_size_t * count)(*(array.nbytes for array in arrays)),
        (ctypes.c_char_p * count)(*(name.encode() for name in launched.buffers)),
        count,
        (ctypes.c_uint * 3)(*launched.grid),
        (ctypes.c_uint * 3)(*launched.block),
        ctypes.c_size_t(launched.shared),
        ctypes.c_bool(early),
    )
    if error:
        raise EmulatorError(f"{launched.kernel}: {error.decode()}")


def aligned(array: NDArray[Any]) -> NDArray[Any]:
    """Return a copy that starts where a GPU's allocator starts arrays."""
    copy = _empty(array.nbytes).view(array.dtype).reshape(array.shape)
    copy[...] = array
    return copy


def _empty(nbytes: int) -> NDArray[np.uint8]:
    room = np.empty(nbytes + ALIGNMENT, np.uint8)
    start = -room.ctypes.data % ALIGNMENT
    return room[start : start + nbytes]


def _noise(shape: tuple[int, ...], dtype: str) -> NDArray[Any]:
    nbytes = int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
    array = _empty(nbytes)
    array[...] = np.random.default_rng(nbytes).integers(0x80, 0xFF, nbytes, dtype=np.uint8)
    return array.view(dtype).reshape(shape)


_KERNEL = re.compile(
    r'extern "C" __global__ void\s+(?:__launch_bounds__\([^)]*\)\s*)?(\w+)\(([^)]*)\)\s*\{'
)
_HELPER = re.compile(
    r"^(?:template\s*<[^>]*>\s*)?__forceinline__ __device__ [^;{}()]*?(\w+)\(", re.M
)
_SHARED = re.compile(
    r"(extern )?__shared__ (?:(?:__align__|alignas|__attribute__\(\(aligned)\(?(\d+)\)+ )?"
    r"([\w ]+?) (\w+)\[(\d*)\];"
)
#: Helpers that ``device.hpp`` has itself.
_KNOWN = {"ptx_wgmma_encode_matrix_descriptor"}


def compile_source(source: str) -> ctypes.CDLL:
    """Compile CUDA source for the emulator; ``run_<kernel>`` launches a kernel."""
    return _compile(host_source(source))


def host_source(source: str) -> str:
    """Return C++ that runs the kernels of CUDA source."""
    parts = ['#include "device.hpp"']
    called = set(re.findall(r"\b(\w+)\s*\(", source))
    parts.extend(
        translate(source[match.start() : _end(source, match.end())])
        for match in _HELPER.finditer(source)
        if match[1] in called and match[1] not in _KNOWN
    )
    for match in _KERNEL.finditer(source):
        body = source[match.end() : _end(source, match.end() - 1)]
        parts.append(_kernel(match[1], match[2], body))
    return "\n".join(parts) + "\n"


def _end(source: str, start: int) -> int:
    """Return the position behind the brace that closes the first one at or after ``start``."""
    depth, at = 0, source.index("{", start)
    for match in re.finditer(r"[{}]", source[at:]):
        depth += 1 if match[0] == "{" else -1
        if depth == 0:
            return at + match.end()
    raise ValueError("braces do not match")


def _kernel(name: str, params: str, body: str) -> str:
    offset, pointers = 0, []
    declared: list[str] = []
    for index, param in enumerate(p.strip() for p in params.split(",") if p.strip()):
        kind, variable = re.fullmatch(r"(.*?)\s*\*\s*__restrict__\s+(\w+)", param).groups()  # type: ignore[union-attr]
        declared.append(f"  auto {variable} = emu::argument<{kind}>({index});")
        pointers.append(variable)

    def shared(match: re.Match[str]) -> str:
        nonlocal offset
        dynamic, align, kind, variable, count = match.groups()
        pointers.append(variable)
        if dynamic:
            return f"auto {variable} = emu::dynamic_shared<{kind}>({align or 16});"
        offset = -(-offset // int(align or 16)) * int(align or 16)
        place = f"{offset}, {count}"
        offset += int(count) * _SIZES[kind.strip()]
        return (
            f"static emu::Region {variable}_region; auto {variable} = "
            f'emu::static_shared<{kind}>({place}, "{variable}", {variable}_region);'
        )

    body = translate(_SHARED.sub(shared, body))
    if pointers:
        body = re.sub(rf"\(([\w ]+)\*\)\s*({'|'.join(pointers)})\b", r"emu::cast<\1>(\2)", body)
    fixed = -(-offset // 16) * 16
    return f"""
static void {name}() {{
{chr(10).join(declared)}
{body}
extern "C" const char* run_{name}(void** arrays, size_t* bytes, char** names, int count,
    const unsigned* grid, const unsigned* block, size_t dynamic, bool early) {{
  if (count > emu::kMaxRegions) return "too many arrays";
  emu::region_count = count;
  for (int i = 0; i < count; ++i) emu::regions[i] = {{(char*)arrays[i], bytes[i], names[i]}};
  return emu::launch(grid, block, {fixed}, dynamic, early, {name});
}}"""


_SIZES = {
    **dict.fromkeys(("uchar", "signed char", "char", "bool", "int8_t", "uint8_t"), 1),
    **dict.fromkeys(("half", "short", "ushort", "int16_t", "uint16_t"), 2),
    **dict.fromkeys(("int", "uint", "float", "int32_t", "uint32_t", "unsigned int"), 4),
    **dict.fromkeys(("uint64_t", "int64_t", "double", "long long"), 8),
    **dict.fromkeys(("uint2", "int2", "float2"), 8),
    **dict.fromkeys(("uint4", "int4", "float4"), 16),
}


@cache
def _compile(code: str) -> ctypes.CDLL:
    headers = "".join(path.read_text() for path in sorted(HERE.glob("*.hpp")))
    key = hashlib.sha256((code + headers + " ".join(FLAGS)).encode()).hexdigest()[:20]
    library = BUILD / f"{key}.so"
    if not library.exists():
        BUILD.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=BUILD) as folder:
            path = Path(folder, "kernel.cpp")
            path.write_text(code)
            made = Path(folder, "kernel.so")
            command = ["g++", *FLAGS, f"-I{HERE}", "-o", str(made), str(path)]
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode:
                (BUILD / "failed.cpp").write_text(code)
                raise RuntimeError(f"g++ refuses the generated source:\n{done.stderr[:3000]}")
            os.replace(made, library)
    return ctypes.CDLL(str(library))

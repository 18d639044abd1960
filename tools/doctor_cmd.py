# SPDX-License-Identifier: Apache-2.0
"""``xnortvm doctor``: is this machine set up well, and if not, what to do."""

from __future__ import annotations

import argparse
import os
import platform
import struct
import sys
import sysconfig
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from xnortvm import __version__
from xnortvm.errors import XnortvmError
from xnortvm.tools.outcome import Outcome, table

HELP = "check this installation and this machine, and say what to fix"

OK, NOTE, WARNING, FAILURE = "ok", "note", "warning", "failure"

# Optional packages and the extra that brings them.
_OPTIONAL = {
    "torch": "torch",
    "onnx": "onnx",
    "onnxscript": "onnx",
    "onnxruntime": "bench",
    "openvino": "bench",
    "matplotlib": "plot",
    "xgboost": "tune",
    "tornado": "rpc",
    "ziglang": "cross",
}


# When it applies, and what it means.
_ADVICE: tuple[tuple[Callable[[Any], bool], str], ...] = (
    (
        lambda target: target.isa in ("sse2", "sse4"),
        (
            "no AVX2: binary layers run at a fraction of the usual speed; virtual machines may "
            "hide what the processor has"
        ),
    ),
    (
        lambda target: target.triple.startswith("x86_64") and "popcnt" not in target.features,
        "no POPCNT instruction: popcounts are computed bit by bit",
    ),
    (
        lambda target: target.isa == "neon32",
        "32-bit ARM: use a 64-bit operating system where the CPU can",
    ),
    (
        lambda target: target.isa == "generic",
        "no vector unit that xnortvm has schedules for: expect it to be slow",
    ),
)


class Finding(NamedTuple):
    """One line of the answer: what was looked at, how it is, and what was found."""

    what: str
    status: str
    detail: str


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this command."""
    parser.add_argument(
        "--target", default="llvm", help="the target whose instruction set is looked at"
    )


def run(args: argparse.Namespace) -> Outcome:
    """Check everything; exit with 1 when something is wrong."""
    findings: list[Finding] = []
    for what, check in CHECKS.items():
        try:
            findings.extend(check(args))
        except XnortvmError as error:
            findings.append(Finding(what, FAILURE, str(error)))
        except Exception as error:  # doctor has to report whatever is broken, and go on
            findings.append(Finding(what, FAILURE, f"{type(error).__name__}: {error}"))
    findings = _without_repetitions(findings)
    count = {status: [f.status for f in findings].count(status) for status in (WARNING, FAILURE)}
    healthy = count[FAILURE] == 0
    text = table(["what", "status", "found"], findings)
    text += (
        f"\n\n{'Everything needed works' if healthy else 'Something is wrong'}: "
        f"{count[FAILURE]} failures, {count[WARNING]} warnings."
    )
    data = {"healthy": healthy, "findings": [finding._asdict() for finding in findings]}
    return Outcome(text, data, 0 if healthy else 1)


def _without_repetitions(findings: list[Finding]) -> list[Finding]:
    """Keep the first of several failures for one reason: without TVM every check says so."""
    first: dict[tuple[str, str], Finding] = {}
    kept = []
    for finding in findings:
        known = first.setdefault((finding.status, finding.detail), finding)
        if known is finding or finding.status != FAILURE:
            kept.append(finding)
    return kept


def _python(args: argparse.Namespace) -> Iterator[Finding]:
    bits = 8 * struct.calcsize("P")
    yield Finding(
        "Python", OK, f"{platform.python_version()} ({bits}-bit, {sysconfig.get_platform()})"
    )
    if bits == 32:
        yield Finding(
            "Python",
            WARNING,
            "32-bit: half of the vector registers of a 64-bit ARM are out of reach and binary "
            "layers are slow; install a 64-bit operating system",
        )
    if hasattr(sys, "gettotalrefcount"):
        yield Finding("Python", WARNING, "a debug build: calls are slow; use a release build")


def _versions(args: argparse.Namespace) -> Iterator[Finding]:
    from xnortvm._tvm import PINS, installed_version  # raises VersionError when they do not fit

    yield Finding("xnortvm", OK, __version__)
    for package in [pin.package for pin in PINS] + ["numpy"]:
        yield Finding(package, OK, installed_version(package) or "not a package of pip")
    for package, extra in _OPTIONAL.items():
        found = installed_version(package) or installed_version(f"{package}-cpu")
        missing = f'not installed; pip install "xnortvm[{extra}]"'
        yield Finding(package, OK if found else NOTE, found or missing)


def _instruction_set(args: argparse.Namespace) -> Iterator[Finding]:
    from xnortvm.target import resolve

    target = resolve(args.target)
    yield Finding("target", OK, target.name)
    features = " ".join(sorted(target.features))
    detail = f"{target.isa}, vectors of {target.vector_bits} bits; features: {features}"
    yield Finding("instruction set", OK, detail)
    if target.kind == "llvm" and not target.is_host:
        yield Finding("target", NOTE, "this machine cannot run code for it")
    if target.kind == "llvm":
        for applies, advice in _ADVICE:
            if applies(target):
                yield Finding("instruction set", WARNING, advice)


def _threads(args: argparse.Namespace) -> Iterator[Finding]:
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    detail = f"{usable} of {os.cpu_count()} cores usable; models use 1 unless num_threads= is given"
    yield Finding("threads", OK, detail)
    for name in ("TVM_NUM_THREADS", "OMP_NUM_THREADS"):
        if name in os.environ:
            yield Finding("threads", NOTE, f"{name}={os.environ[name]} limits them")


def _compiler(args: argparse.Namespace) -> Iterator[Finding]:
    from xnortvm.runtime.link import find_linker

    yield Finding("C compiler", OK, " ".join(find_linker().command))


def _gpu(args: argparse.Namespace) -> Iterator[Finding]:
    """Look for what compiling for CUDA needs, and for what running does."""
    from xnortvm.errors import MissingDependencyError
    from xnortvm.runtime.cuda_compiler import find_cuda_compiler
    from xnortvm.runtime.cuda_driver import capability, has_driver

    try:
        compiler = find_cuda_compiler()
        found = " ".join(filter(None, (compiler.name, compiler.version, compiler.path)))
        yield Finding("CUDA compiler", OK, found)
    except MissingDependencyError as error:
        yield Finding("CUDA compiler", NOTE, str(error))
    if not has_driver():
        without = "no NVIDIA driver: models compile for CUDA here, and run on other machines"
        yield Finding("GPU", NOTE, without)
        return
    here = capability()
    found = "compute capability {}.{}".format(*here) if here else "a driver, but no CUDA device"
    yield Finding("GPU", OK if here else NOTE, found)


def _models_of_arm(args: argparse.Namespace) -> Iterator[Finding]:
    """Look for what `bench --model-cost` and the tests of ARM code need."""
    from xnortvm.emulation import needs

    lacking = needs.missing_for_costs()
    here = lacking or f"{needs.qemu_version()}, llvm-mca {needs.find_models().version}"
    yield Finding("models of ARM cores", NOTE if lacking else OK, here)


def _kernel(args: argparse.Namespace) -> Iterator[Finding]:
    """Compile xor-popcount for this machine and compare it with Python."""
    import numpy as np

    from xnortvm._tvm import te, tirx, tvm
    from xnortvm.target import resolve

    here = resolve("llvm")
    a, w = (te.placeholder((256,), "uint32", name=name) for name in ("a", "w"))
    count = te.compute((256,), lambda i: tirx.popcount(a[i] ^ w[i]), name="count")
    library = tvm.compile(te.create_prim_func([a, w, count]), target=here.tvm)
    random = np.random.default_rng(0)
    bits = [random.integers(0, 2**32, 256, dtype=np.uint32) for _ in range(2)]
    result = tvm.runtime.tensor(np.zeros(256, np.uint32))
    library["main"](*map(tvm.runtime.tensor, bits), result)
    expected = [(int(x) ^ int(y)).bit_count() for x, y in zip(*bits, strict=True)]
    right = result.numpy().tolist() == expected
    yield Finding(
        "kernel",
        OK if right else FAILURE,
        f"xor-popcount compiled for {here.mcpu} and ran, "
        + ("correctly" if right else "with wrong results: the CPU's features are misdetected"),
    )


CHECKS: dict[str, Callable[[argparse.Namespace], Iterator[Finding]]] = {
    "Python": _python,
    "packages": _versions,
    "instruction set": _instruction_set,
    "threads": _threads,
    "C compiler": _compiler,
    "GPU": _gpu,
    "models of ARM cores": _models_of_arm,
    "kernel": _kernel,
}

# SPDX-License-Identifier: Apache-2.0
"""Bad targets are refused in one sentence."""

from __future__ import annotations

import pytest

from xnortvm._tvm import TvmTarget
from xnortvm.errors import TargetError
from xnortvm.target import resolve

REFUSALS = [
    ("", "empty string"),
    ("lvm", "did you mean 'llvm'"),
    ("rpi6", "did you mean 'rpi5'"),
    ("opencl", "unknown target 'opencl'; `xnortvm targets` lists"),
    ("cortex-a72", "write 'llvm -mcpu=cortex-a72'"),
    ("sm_90", "write 'cuda -arch=sm_90'"),
    ("nvidia/geforce-rtx-4091", "did you mean 'nvidia/geforce-rtx-4090'"),
    ("llvm -mcpu=cortex-a722", "did you mean 'cortex-a72'"),
    ("llvm -mcpu=znver9", "did you mean 'znver5'"),
    ("llvm -mcpu=rpi4", "pass 'rpi4' alone"),
    ("llvm -mcup=znver4", "did you mean 'mcpu'"),
    ("llvm -libs=mkl", "unknown option -libs; llvm takes -mcpu,"),
    ("llvm -mcpu", "-mcpu of the target 'llvm -mcpu' has the value ''"),
    ("llvm znver4", "holds 'znver4', which is not an option"),
    ("llvm -mcpu=znver4 -mcpu=znver3", "gives -mcpu twice"),
    ('llvm "', "cannot be read"),
    ("llvm -mcpu=cortex-a72 -mtriple=x86_64-linux-gnu", "it is a CPU of -mtriple=aarch64"),
    ("llvm -mtriple=x86-linux-gnu", "unknown architecture 'x86'"),
    ("llvm -mcpu=znver3 -mattr=+avx3", "did you mean 'avx' or 'avx2'"),
    ("llvm -mattr=avx2", "with + or - in front"),
    ("llvm -num-cores=0", "at least 1"),
    ("llvm -num-cores=two", "not a whole number"),
    ("llvm -mcpu=pentium4", "pentium4 lacks 64bit"),
    ("llvm -mcpu=cortex-m4", "microcontroller"),
    ("llvm -mcpu=x86-64 -mattr=-sse2", "lacks sse2"),
    ("rpi4 -mattr=-neon", "lacks neon"),
    ("cuda -arch=sm_91", "did you mean 'sm_90'"),
    ("cuda -arch=sm_9x", "known are sm_75"),
    ("cuda -arch=sm_70", "is too old: CUDA 13 makes code for sm_75"),
    ("cuda -arch=compute_61", "is too old"),
    ("cuda -arch=sm_80 -host=t4", "has to be a CPU"),
    ({"kind": "vulkan"}, "makes code for 'llvm' (CPUs) and 'cuda' only"),
    ({"mcpu": "znver4"}, 'has no "kind"'),
    ({"tag": "arm/rasp4c"}, "did you mean 'arm/rasp4b'"),
    ({"kind": "llvm", "mcpu": 3}, "has the value 3"),
    ({"kind": "llvm", "mattr": 5}, "has the value 5"),
    (7, "not int"),
    (TvmTarget("opencl"), "makes code for 'llvm' (CPUs) and 'cuda' only"),
]


@pytest.mark.parametrize(("target", "reason"), REFUSALS, ids=[str(row[0]) for row in REFUSALS])
def test_a_bad_target_is_refused_in_one_sentence(target, reason: str):
    with pytest.raises(TargetError) as caught:
        resolve(target)
    message = str(caught.value)
    assert reason in message
    assert "\n" not in message
    assert isinstance(caught.value, ValueError)


@pytest.mark.parametrize("count", [0, -1, True, "2", 1.5])
def test_a_bad_thread_count_is_refused(count):
    with pytest.raises(TargetError, match="whole number of at least 1"):
        resolve("llvm", num_threads=count)

# SPDX-License-Identifier: Apache-2.0
"""What is run on every emulated CPU: kernels with inputs and exact expectations, and a network."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from tests.emulated.networks import network
from tests.ops.kernel_cases import (
    EPILOGUES,
    Case,
    Conv,
    bconv2d_case,
    bdense_case,
    conv2d_case,
    dense_case,
    sampled,
    scheduled,
)
from xnortvm._tvm import te
from xnortvm.emulation.network import library
from xnortvm.emulation.program import INPUT, OUTPUT, Program
from xnortvm.ops import reference
from xnortvm.ops.bitpack import bitpack_te
from xnortvm.ops.bmaxpool2d import bmaxpool2d_te
from xnortvm.schedules import schedule_function
from xnortvm.schedules.isa import Isa, isa_of
from xnortvm.target import Target

CHANNELS = (31, 64, 65, 128, 300)


def packed_convolutions() -> list[Conv]:
    """Every kernel size, stride and padding with every number of channels, and rarer forms."""
    convs = []
    for channels in CHANNELS:
        convs += [
            Conv(channels, 64, (6, 7)),
            Conv(channels, 40, (7, 7), strides=(2, 2)),
            Conv(channels, 32, (4, 5), (1, 1), padding=(0, 0, 0, 0)),
            Conv(channels, 33, (5, 6), (5, 5), padding=(2, 2, 2, 2), pad_value=1),
            Conv(channels, 64, (5, 5), pad_value=-1),
        ]
    return [
        *convs,
        Conv(128, 64, (5, 6), groups=2),
        Conv(136, 40, (5, 6), groups=4),
        Conv(32, 32, (5, 5), groups=32),
        Conv(64, 64, (5, 5), dilation=(2, 2), padding=(2, 2, 2, 2)),
        Conv(64, 64, (6, 6), images=3),
        Conv(64, 64, (14, 14)),
        Conv(512, 64, (4, 4)),
        Conv(2048, 32, (3, 3)),
        *sampled(24, seed=9),
    ]


DENSE = [(1, 1, 1), (1, 300, 10), (3, 65, 33), (2, 4608, 16), (1, 2048, 96), (4, 512, 1000)]

FLOAT_CONVOLUTIONS = [
    Conv(3, 64, (14, 14), (7, 7), (2, 2), (3, 3, 3, 3)),
    Conv(32, 40, (5, 13), groups=4),
    Conv(48, 48, (7, 7), groups=48),
    Conv(65, 40, (4, 5), (1, 1), padding=(0, 0, 0, 0)),
    *sampled(12, seed=5),
]

#: Values whose sign is easily taken wrongly; NEON of armv7 takes subnormal numbers as 0.
EDGES = np.array(
    [0.0, -0.0, 1.0, -1.0, np.inf, -np.inf, np.nan, -3e38, 1e-45, -1e-45, 1e-38, -1e-38], np.float32
)


def bitpack_case(shape: tuple[int, ...], groups: int, zero: str, isa: Isa) -> Case:
    """Return a packing of floats, among them zeros of both signs, subnormals and infinities."""
    x = np.random.default_rng(shape[-1]).choice(EDGES, shape)
    tensor = te.placeholder(x.shape, "float32", name="x")
    func = te.create_prim_func(
        [tensor, bitpack_te(tensor, groups=groups, zero=zero, flavour=isa.pack)]
    )
    expected = reference.bitpack(x, groups, zero)
    return Case(f"bitpack {shape} groups={groups} zero={zero}", func, [x], [expected])


def bmaxpool2d_case(shape: tuple[int, ...], window: int, stride: int, pad: int) -> Case:
    """Return a max-pool of packed signs."""
    rng = np.random.default_rng(shape[-1])
    a = rng.integers(0, 1 << 32, shape, dtype=np.uint32) | rng.integers(
        0, 1 << 32, shape, dtype=np.uint32
    )
    size = tuple((dim + 2 * pad - window) // stride + 1 for dim in shape[1:3])
    form: dict[str, Any] = {
        "size": size,
        "pool_size": (window, window),
        "strides": (stride, stride),
        "padding": (pad,) * 4,
        "dilation": (1, 1),
    }
    tensor = te.placeholder(a.shape, "uint32", name="a")
    func = te.create_prim_func([tensor, bmaxpool2d_te(tensor, **form)])
    expected = reference.bmaxpool2d(a, **form)
    return Case(f"bmaxpool2d {shape} {window}×{window}/{stride}", func, [a], [expected])


def all_bits_differ(conv: Conv, isa: Isa) -> Case:
    """Return a convolution with the largest popcounts there can be."""
    case = bconv2d_case(conv, isa)
    case.inputs[0] = np.full_like(case.inputs[0], 0xFFFFFFFF)
    case.inputs[1] = np.zeros_like(case.inputs[1])
    total = conv.channels * conv.kernel[0] * conv.kernel[1]
    case.expected = [np.full_like(case.expected[0], -total)]
    return case


def kernels(isa: Isa) -> list[Case]:
    """Return all kernels, not scheduled."""
    cases = [
        bconv2d_case(conv, isa, EPILOGUES[i % len(EPILOGUES)], seed=i)
        for i, conv in enumerate(packed_convolutions())
    ]
    cases += [
        all_bits_differ(Conv(channels, 16, (k, k), (k, k), padding=(0, 0, 0, 0)), isa)
        for channels, k in ((512, 3), (992, 1), (2048, 3))
    ]
    cases += [
        bdense_case(*shape, isa, EPILOGUES[i % len(EPILOGUES)]) for i, shape in enumerate(DENSE)
    ]
    cases += [
        bitpack_case((2, 3, channels), groups, zero, isa)
        for channels, groups in ((32, 1), (31, 1), (96, 3), (40, 4), (300, 1))
        for zero in ("+1", "-1")
    ]
    cases += [bmaxpool2d_case((2, 7, 9, words), 3, 2, 1) for words in (1, 2, 5, 16)]
    kinds = ("accumulator", "residual", "two outputs")
    cases += [
        conv2d_case(conv, isa, kinds[i % len(kinds)], seed=i)
        for i, conv in enumerate(FLOAT_CONVOLUTIONS)
    ]
    return [*cases, dense_case((1,), 64, 1000, isa), dense_case((2, 5), 33, 10, isa)]


def kernel_programs(cases: list[Case], target: Target) -> tuple[list[Program], dict[str, Any]]:
    """Return a program for each case, and the kernels that they call, scheduled.

    The first program expects something wrong, and has to be reported.
    """
    isa = isa_of(target)
    cases = scheduled(cases, partial(schedule_function, isa=isa, num_threads=1))
    listed, functions = [], {}
    for i, case in enumerate(cases):
        kernel = f"kernel{i}"
        functions[kernel] = case.func.with_attr("global_symbol", kernel)
        listed.append(_program(case.name, kernel, case))
    wrong = _program("a wrong expectation", "kernel0", cases[0])
    wrong.slots[-1].value = wrong.slots[-1].value.copy()
    wrong.slots[-1].value.flat[-1] += 1
    return [wrong, *listed], functions


def programs(target: Target) -> tuple[list[Program], Any]:
    """Return the programs of an x86 target and the library with their kernels.

    The first program expects something wrong, and has to be reported.
    """
    listed, functions = kernel_programs(kernels(isa_of(target)), target)
    residual, more = network("ResNet-18", *resnet18(), target, "resnet18_")
    return [*listed, residual], library(functions | more, target)


def _program(name: str, kernel: str, case: Case) -> Program:
    program = Program(name)
    inputs = [program.add(INPUT, array) for array in case.inputs]
    outputs = [program.add(OUTPUT, array) for array in case.expected]
    program.calls.append((kernel, [*inputs, *outputs]))
    return program


def resnet18() -> tuple[Any, list[np.ndarray[Any, Any]]]:
    """Return a narrow ResNet-18 after the target-independent phases, and an input."""
    from models.random_init import random_input, randomize_
    from models.resnet import ResNet18
    from xnortvm.api import lower

    model = ResNet18("xnorpp", input_size=(24, 18), width=20, num_classes=10).eval()
    randomize_(model)
    image = random_input(model)
    return lower(model, example_inputs=image), [image.numpy()]

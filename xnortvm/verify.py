# SPDX-License-Identifier: Apache-2.0
"""Compare what the compiled kernels compute with the reference, exactly.

The model is built once more with every binary layer's packed input and integer accumulator as
additional outputs. The fused kernels are the same, with one more output; so what is checked is the
code that runs, on the data that the network itself produces.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from xnortvm import pipeline
from xnortvm._tvm import IRModule, relax, runtime, tvm
from xnortvm.errors import TargetError, VerificationError
from xnortvm.graph.dataflow import Builder, Graph, op_name, rebuild, value_of
from xnortvm.ops import reference, unpack
from xnortvm.report import Report
from xnortvm.runtime.build import build
from xnortvm.target import Target

Array = np.ndarray[Any, Any]


class _Probe(NamedTuple):
    """One value that the verified build gives away."""

    kind: str  # "layer": packed input and accumulator; "sign": the argument of a torch.sign
    layer: str
    call: Any


def verify_layers(mod: IRModule, target: Target, inputs: list[Array], report: Report) -> None:
    """Check every binary layer of a lowered module on given inputs.

    Parameters
    ----------
    mod : IRModule
        After `pipeline.graph_phases`.
    target : Target
        Must be able to run here.
    inputs : list of ndarray
    report : Report
        Gets a note with the number of layers checked and of exact zeros met by torch.sign.

    Raises
    ------
    VerificationError
        Names the first layer whose accumulators differ, and by how much.
    TargetError
        When the target cannot run on this machine.
    """
    if not target.is_host:
        raise TargetError(
            f"verify runs the compiled kernels and {target.name} is not this machine; "
            "compile without verify and verify on the device"
        )
    exposed, probes = _expose(mod)
    built = build(pipeline.run(exposed, pipeline.kernel_phases(target)), target)
    vm = relax.VirtualMachine(built.executable, tvm.cpu())
    results = vm["main"](*[runtime.tensor(np.ascontiguousarray(x)) for x in inputs])
    values = iter([result.numpy() for result in list(results)[-_width(probes) :]] if probes else [])
    zeros = signs = 0
    for probe in probes:
        if probe.kind == "sign":
            argument = next(values)
            zeros, signs = zeros + int((argument == 0).sum()), signs + argument.size
            continue
        packed, accumulator = next(values), next(values)
        _compare(probe, packed, accumulator)
    layers = len({probe.layer for probe in probes if probe.kind == "layer"})
    report.notes.append(f"verified: integer accumulators of {layers} binary layers are exact")
    if signs:
        report.notes.append(
            f"torch.sign(0) = 0 is taken as +1 where zeros have probability 0; verify met {zeros} "
            f"zeros in {signs} values"
        )


def _width(probes: list[_Probe]) -> int:
    return sum(2 if probe.kind == "layer" else 1 for probe in probes)


def _expose(mod: IRModule) -> tuple[IRModule, list[_Probe]]:
    graph = Graph(mod["main"])
    probes: list[_Probe] = []
    wanted: list[Any] = []
    for var, call in graph.calls():
        name = op_name(call)
        if name in _REFERENCES:
            probes.append(_Probe("layer", str(call.attrs["layer"]), call))
            wanted += [call.args[0], var]
        elif name == "relax.xnortvm.bitpack" and str(call.attrs["zero"]) == "0":
            probes.append(_Probe("sign", "", call))
            wanted.append(call.args[0])

    def finish(builder: Builder, result: Any) -> Any:
        fields = list(result.fields) if isinstance(result, relax.Tuple) else [result]
        return relax.Tuple([*fields, *(builder.new(var) for var in wanted)])

    return rebuild(mod, lambda *_: None, finish), probes


def _compare(probe: _Probe, packed: Array, accumulator: Array) -> None:
    expected = _REFERENCES[op_name(probe.call)](probe.call, packed)
    if not np.array_equal(expected, accumulator):
        wrong = expected != accumulator
        place = tuple(int(i) for i in np.argwhere(wrong)[0])
        raise VerificationError(
            f"the kernel of layer {probe.layer} is wrong: {int(wrong.sum())} of {wrong.size} "
            f"accumulators differ, the first at {place}: {int(accumulator[place])} instead of "
            f"{int(expected[place])}; please report this with the output of xnortvm doctor"
        )


def _bconv2d(call: Any, packed: Array) -> Array:
    attrs = call.attrs
    channels, groups = int(attrs["channels"]), int(attrs["groups"])
    weights = value_of(call.args[1])
    assert weights is not None
    offset = int(attrs["offset"])
    pad_value = int(attrs["pad_value"])
    return reference.conv2d(
        unpack(packed, channels, groups).astype(np.int32) + offset,
        unpack(weights, channels // groups).astype(np.int32),
        strides=[int(s) for s in attrs["strides"]],
        padding=[int(p) for p in attrs["padding"]],
        dilation=[int(d) for d in attrs["dilation"]],
        groups=groups,
        pad_value=pad_value + offset if pad_value else 0,
    )


def _bdense(call: Any, packed: Array) -> Array:
    weights = value_of(call.args[1])
    assert weights is not None
    return reference.bdense(packed, weights, channels=int(call.attrs["channels"]))


_REFERENCES = {"relax.xnortvm.bconv2d": _bconv2d, "relax.xnortvm.bdense": _bdense}

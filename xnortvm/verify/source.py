# SPDX-License-Identifier: Apache-2.0
"""The compiled model against the source model."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from xnortvm._tvm import IRModule
from xnortvm.errors import VerificationError, XnortvmError
from xnortvm.frontend.imported import Batch
from xnortvm.frontend.twin import Twin, TwinRun
from xnortvm.graph.dataflow import Graph, op_name
from xnortvm.ops.stem_conv2d import NAME as STEM_CONV2D
from xnortvm.ops.stem_conv2d import ROUNDING
from xnortvm.report import Report, Verification
from xnortvm.runtime.interface import TensorSpec
from xnortvm.runtime.module import CompiledModel
from xnortvm.runtime.signature import inputs_of
from xnortvm.transform.half_trunk import is_rounding
from xnortvm.verify import data
from xnortvm.verify.bounds import NOISE, bound_of, described, difference, largest
from xnortvm.verify.expose import Exposed
from xnortvm.verify.interpreter import UnknownOperatorError
from xnortvm.verify.kernels import REPORT_IT, Ran, check_kernels
from xnortvm.verify.relax_twin import RelaxTwin
from xnortvm.verify.replay import Replay

Array = np.ndarray[Any, Any]

log = logging.getLogger("xnortvm")

#: A binary layer is right when the nearest integers of the framework's floats are ours: sums of
#: thousands of equal products round in one direction, by 6e-5 where random ones stay below 1e-6.
PART_OF_STEP = 0.5

#: Samples in the batch that is compared with each of them alone.
_SAMPLES = 3


class Lowered(NamedTuple):
    """What the compiler made on its way, for `verify`.

    Attributes
    ----------
    exposed : Exposed
        The imported model with exposed layers.
    mod : IRModule
        The same after the phases "normalise" and "lower".
    graph : IRModule
        After `pipeline.graph_phases`, nothing exposed.
    batch : Batch or None
        Where the number of samples is dynamic; the modules are for one of them.
    """

    exposed: Exposed
    mod: IRModule
    graph: IRModule
    batch: Batch | None = None


def verify(
    compiled: CompiledModel,
    lowered: Lowered,
    twin: Twin | None,
    report: Report,
    given: Any = None,
    examples: list[Array] | None = None,
) -> None:
    """Run compiled and source model and compare them.

    Parameters
    ----------
    compiled : CompiledModel
        For this machine.
    lowered : Lowered
    twin : Twin, optional
        Runs the source model; the imported Relax module by default.
    report : Report
        Gets `Report.verification` and what a user should know.
    given, examples
        Inputs: what the user wants, and what the model came with.

    Raises
    ------
    VerificationError
        Naming the first layer that differs, with the numbers and what to do.
    """
    start = time.perf_counter()
    twin = RelaxTwin(lowered.exposed) if twin is None else twin
    specs = inputs_of(lowered.exposed.mod)
    batched = [lowered.batch is not None and spec.name in lowered.batch.inputs for spec in specs]
    inputs, what = data.chosen(specs, given, examples or twin.examples(), batched)
    try:
        _Comparison(compiled, lowered, twin, inputs, what, report).run()
        if any(batched):
            _compare_samples(compiled, specs, inputs, batched)
    except UnknownOperatorError as error:
        _not_verified(report, f"there is no reference for {error}")
    except XnortvmError:
        raise
    except Exception as error:  # the check itself fails, which must not cost the user the model
        log.debug("the check failed", exc_info=True)
        _not_verified(report, f"the check itself failed ({type(error).__name__}: {error})")
    if report.verification is not None:
        report.verification.seconds = time.perf_counter() - start
    log.debug("verified in %.2f s", time.perf_counter() - start)


def _compare_samples(
    compiled: CompiledModel, specs: Sequence[TensorSpec], inputs: list[Array], batched: list[bool]
) -> None:
    """Run several samples in one call, and each alone: the same code gives the same values."""
    several = [
        np.concatenate([x, *(data.random(spec, seed) for seed in range(1, _SAMPLES))])
        if many
        else x
        for spec, x, many in zip(specs, inputs, batched, strict=True)
    ]
    together = _outputs(compiled, several)
    for sample in range(_SAMPLES):
        own = [
            x[sample : sample + 1] if many else x for x, many in zip(several, batched, strict=True)
        ]
        for index, (alone, all_) in enumerate(zip(_outputs(compiled, own), together, strict=True)):
            if all_.shape == alone.shape:  # nothing of it depends on the samples
                continue
            rows = alone.shape[0]
            theirs = all_[sample * rows : (sample + 1) * rows]
            wrong = difference(theirs, alone) > bound_of(alone)
            if wrong.any():
                raise VerificationError(
                    f"sample {sample} of a batch of {_SAMPLES} differs from that sample alone in "
                    f"output {index}: {described(theirs, alone, wrong, 'values')}; {REPORT_IT}"
                )


def _outputs(compiled: CompiledModel, inputs: list[Array]) -> list[Array]:
    result = compiled(*inputs)
    return list(result) if isinstance(result, tuple) else [result]


def _not_verified(report: Report, why: str) -> None:
    report.notes.append(f"not verified: {why}")
    log.warning("the compiled model was not verified: %s", why)


class _Comparison:
    def __init__(
        self,
        compiled: CompiledModel,
        lowered: Lowered,
        twin: Twin,
        inputs: list[Array],
        what: str,
        report: Report,
    ) -> None:
        self.compiled, self.lowered, self.twin = compiled, lowered, twin
        self.inputs, self.what, self.report = inputs, what, report
        self.worst = 0.0
        self.near = 0
        self.amplified = 0.0

    def run(self) -> None:
        actual, calls = self.compiled.record(self.inputs)
        kernels = self.compiled.layer_kernels
        ran = check_kernels(
            self.lowered.graph, [c for c in calls if c.kernel in kernels], self.inputs
        )
        self._outputs(_flat(ran.outputs), actual, "the kernels give", None)
        rounded = _rounded(self.lowered.graph)
        if rounded:
            self._report_kernels(ran, rounded)
            return
        replay = Replay(self.lowered.mod, self.lowered.exposed, ran, self.inputs)
        self._outputs(_flat(replay.outputs), actual, "the lowered model gives", replay)
        binary = [row.name for row in self.report.layers if row.binary]
        forced = {name: replay.layers[name][0] for name in binary if name in replay.layers}
        source = self.twin.cut(self.inputs, forced)
        self._layers(source, replay, forced)
        self.worst = 0.0
        self._outputs(source.outputs, actual, f"{self.twin.framework} gives", replay)
        whole = self._whole(source, actual, replay)
        self._report(ran, replay, whole)

    def _layers(self, source: TwinRun, replay: Replay, forced: dict[str, Array]) -> None:
        for name, (x, y) in source.layers.items():
            if name in forced and x.size == forced[name].size:
                self._inputs(name, x.reshape(forced[name].shape), forced[name], replay)
            ours = replay.layers.get(name)
            if y is None or ours is None or y.size != ours[1].size:
                continue
            mine = ours[1]
            apart = difference(mine, y.reshape(mine.shape))
            wrong = apart > bound_of(y)
            if wrong.any():
                wrong = apart > self._allowed(y, replay.layer_noise(name))
            if wrong.any() and name in forced and (step := replay.step(name)):
                wrong = apart > PART_OF_STEP * step
                replay.drift[name] = float(apart.max()) / step
            if wrong.any():
                how = described(mine, y.reshape(mine.shape), wrong, "values")
                raise VerificationError(
                    f"layer {name} differs from {self.twin.framework} on {self.what}: {how}, on "
                    f"the same input; {REPORT_IT}"
                )

    def _inputs(self, name: str, source: Array, ours: Array, replay: Replay) -> None:
        """Compare the signs that a binary layer reads."""
        differs = difference(ours, source) > 1e-5 * max(largest(ours), largest(source))
        if not differs.any():
            return
        slack = 1e-5 * largest(ours)
        far = differs
        for measured in (False, True):
            if far.any():
                low, high = replay.doubtful(name, measured=measured)
                far = differs & ((source < low - slack) | (source > high + slack))
        if far.any():
            raise VerificationError(
                f"the input of layer {name} differs from {self.twin.framework} on {self.what}: "
                f"{described(ours, source, far, 'values')}, although the layers before agree; "
                f"{REPORT_IT}"
            )
        self.near += int(differs.sum())

    def _outputs(
        self, expected: list[Array], actual: list[Array], who: str, replay: Replay | None
    ) -> None:
        for index, (mine, theirs) in enumerate(zip(actual, expected, strict=True)):
            if mine.size != theirs.size:
                raise VerificationError(
                    f"output {index} has the shape {list(mine.shape)}, and {who} "
                    f"{list(theirs.shape)}; {REPORT_IT}"
                )
            wrong = self._wrong(mine, theirs, index, replay)
            if wrong is not None:
                raise VerificationError(
                    f"output {index} differs on {self.what}, although every binary layer agrees: "
                    f"{described(mine, theirs.reshape(mine.shape), wrong, 'values')}, which {who} "
                    f"on the same signs; {REPORT_IT}"
                )

    def _wrong(self, mine: Array, theirs: Array, index: int, replay: Replay | None) -> Array | None:
        if mine.size != theirs.size:
            return np.ones(mine.shape, bool)
        theirs = theirs.reshape(mine.shape)
        if theirs.dtype.kind == "f" and mine.dtype != theirs.dtype:
            theirs = theirs.astype(mine.dtype)
        apart = difference(mine, theirs)
        scale = largest(theirs)
        if scale and theirs.dtype.kind == "f" and apart.size:
            self.worst = max(self.worst, float(apart.max()) / scale)
        wrong = apart > bound_of(theirs)
        if wrong.any() and replay is not None:
            wrong = apart > self._allowed(theirs, replay.output_noise(index))
        return wrong if wrong.any() else None

    def _allowed(self, values: Array, noise: float) -> float:
        """Return the bound where rounding is amplified; remember by how much."""
        scale = largest(values)
        if noise > bound_of(values) and scale:
            self.amplified = max(self.amplified, noise / scale)
        return max(bound_of(values), noise)

    def _whole(self, source: TwinRun, actual: list[Array], replay: Replay) -> str:
        """Compare with the user's model as it runs by itself; say how far it is."""
        free = self.twin.whole(self.inputs)
        if free is None or len(free) != len(actual):
            return f"outputs agree with {self.twin.framework} within {self.worst:.1g}"
        cut, self.worst = self.worst, 0.0
        wrong = [
            self._wrong(mine, theirs, index, None)
            for index, (mine, theirs) in enumerate(zip(actual, free, strict=True))
        ]
        if all(each is None for each in wrong):
            return f"outputs agree with {self.twin.framework} within {self.worst:.1g}"
        if not (self.near or replay.near or replay.zeros):
            again = self.twin.cut(self.inputs, {})
            for index, (mine, theirs) in enumerate(zip(again.outputs, free, strict=True)):
                far = self._wrong(mine, theirs, index, replay)
                if far is not None:
                    how = described(mine, theirs.reshape(mine.shape), far, "values")
                    raise VerificationError(
                        f"output {index} of the exported model differs from that of the model "
                        f"itself on {self.what}: {how}; its forward does something else under "
                        "export: compare torch.export's program with it"
                    )
        return (
            f"outputs agree with {self.twin.framework} within {cut:.1g} on the same signs and "
            f"within {self.worst:.1g} when it runs alone"
        )

    def _report_kernels(self, ran: Ran, rounded: list[str]) -> None:
        """Say what was compared where stem= or trunk= rounds more than floats do."""
        layers = len({name for name, _ in ran.accumulators})
        self.report.verification = Verification(
            inputs=self.what,
            against="NumPy",
            kernels=ran.kernels,
            binary_layers=layers,
            signs=0,
            signs_near_zero=ran.near,
            zeros=0,
            largest_difference=self.worst,
        )
        self.report.notes.append(
            f"verified on {self.what}: every kernel agrees with NumPy on what it read, and the "
            f"integers of {layers} binary layers are exact; outputs were not compared with "
            f"{self.twin.framework}, because {' and '.join(rounded)}"
        )

    def _report(self, ran: Ran, replay: Replay, whole: str) -> None:
        near = self.near + replay.near + ran.near
        layers = len({name for name, _ in ran.accumulators})
        self.report.verification = Verification(
            inputs=self.what,
            against=self.twin.framework,
            kernels=ran.kernels,
            binary_layers=layers,
            signs=replay.signs,
            signs_near_zero=near,
            zeros=replay.zeros,
            largest_difference=self.worst,
        )
        integers = {0: "", 1: "the integers of 1 binary layer are exact, "}.get(
            layers, f"the integers of {layers} binary layers are exact, "
        )
        text = f"verified on {self.what}: {integers}{whole}"
        if self.amplified:
            text += (
                f"; some values lie where an operator jumps or cancels, so that rounding alone "
                f"moves them by {self.amplified / NOISE:.1g} of the largest"
            )
        if near:
            text += (
                f"; {near} of {replay.signs} signs lie within rounding of 0 and were taken as the "
                "compiled code has them"
            )
        self.report.notes.append(text)
        if replay.zeros:
            self.report.notes.append(
                f"torch.sign(0) = 0 is taken as +1 where zeros have probability 0; verify met "
                f"{replay.zeros} zeros in {replay.signs} signs"
            )


def _rounded(mod: IRModule) -> list[str]:
    """Say what is rounded more than float32 is: layers of the stem, the trunk."""
    calls = [call for _, call in Graph(mod["main"]).calls()]
    stem = [call for call in calls if op_name(call) == STEM_CONV2D]
    names = [str(c.attrs["layer"]) for c in stem if str(c.attrs["method"]) in ROUNDING]
    why = [f"{', '.join(names)} is rounded by stem="] if names else []
    trunk = ["what travels between kernels is rounded by trunk="]
    return why + (trunk if any(map(is_rounding, calls)) else [])


def _flat(values: Any) -> list[Array]:
    if isinstance(values, (list, tuple)):
        return [leaf for value in values for leaf in _flat(value)]
    return [values]

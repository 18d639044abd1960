# SPDX-License-Identifier: Apache-2.0
"""Every kernel of the compiled library against NumPy, on the data that the run itself produced.

The library is the one that the user gets: the virtual machine hands out copies of the arguments of
every kernel call. Each kernel is compared alone, on what it really read, so the first one that is
wrong is found, and no error hides behind another.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from xnortvm._tvm import IRModule
from xnortvm.errors import VerificationError
from xnortvm.graph.accumulators import ACCUMULATORS
from xnortvm.graph.dataflow import Graph, op_name, value_of, variables
from xnortvm.runtime.trace import KernelCall
from xnortvm.transform.group import PACKS, Region, find_regions, in_order, outputs_of
from xnortvm.transform.half_trunk import is_rounding
from xnortvm.verify.bounds import (
    NOISE,
    bound_of,
    described,
    difference,
    misrounded,
    shaken,
)
from xnortvm.verify.integers import nearest, swept
from xnortvm.verify.interpreter import Interpreter

Array = np.ndarray[Any, Any]

REPORT_IT = "please report this with the output of xnortvm doctor"


@dataclass
class Ran:
    """What one run of the library made.

    Attributes
    ----------
    packed : dict
        (layer, which call of it) to the packed signs at the root of its input: before pools.
    accumulators : dict
        (layer, which call of it) to the right integers for what the kernel read.
    outputs : list of ndarray
        What the run gives by its kernels' outputs.
    kernels : int
        How many kernels were compared.
    near : int
        Signs within rounding of 0 that a kernel took differently than NumPy.
    """

    packed: dict[tuple[str, int], Array] = field(default_factory=dict)
    accumulators: dict[tuple[str, int], Array] = field(default_factory=dict)
    outputs: list[Any] = field(default_factory=list)
    kernels: int = 0
    near: int = 0


def check_kernels(mod: IRModule, calls: list[KernelCall], inputs: list[Array]) -> Ran:
    """Compare the recorded calls of kernels with what their operators mean.

    Parameters
    ----------
    mod : IRModule
        After `pipeline.graph_phases`.
    calls : list of KernelCall
        Of the kernels that compute regions, in the order of execution.
    inputs : list of ndarray
        Of the recorded run.

    Raises
    ------
    VerificationError
        Naming the first layer whose kernel is wrong, with the numbers.
    """
    return _Walk(mod, calls, inputs).walk()


#: Operators between packed signs and a layer: pools, views, and moves of whole pixels.
_MOVES_OF_BITS = frozenset(
    {
        "relax.xnortvm.bmaxpool2d",
        "relax.reshape",
        "relax.broadcast_to",
        "relax.take",
        "relax.strided_slice",
    }
)


def packed_root(graph: Graph, call: Any) -> Any:
    """Return the variable of the packed signs that a packed layer reads, before pools and moves."""
    var = call.args[0]
    while op_name(graph.producer(var)) in _MOVES_OF_BITS:
        var = graph.producer(var).args[0]
    return var


def packed_layers(graph: Graph) -> list[tuple[tuple[str, int], Any, Any]]:
    """List (layer, which call of it), variable and call of every packed layer."""
    counts: dict[str, int] = {}
    found = []
    for var, call in graph.calls():
        if op_name(call) in ACCUMULATORS:
            layer = str(call.attrs["layer"])
            found.append(((layer, counts.get(layer, 0)), var, call))
            counts[layer] = counts.get(layer, 0) + 1
    return found


class _Walk:
    def __init__(self, mod: IRModule, calls: list[KernelCall], inputs: list[Array]) -> None:
        self.interpreter = Interpreter(mod["main"])
        self.graph = self.interpreter.graph
        self.calls = iter(calls)
        self.env: dict[Any, Any] = dict(zip(self.graph.params, inputs, strict=True))
        self.layers = {var: key for key, var, _ in packed_layers(self.graph)}
        self.stored = {var for var, call in self.graph.calls() if is_rounding(call)}
        self.ran = Ran()

    def walk(self) -> Ran:
        graph, owner = self.graph, find_regions(self.graph)
        for item in in_order(graph, owner):
            if isinstance(item, Region):
                self._region(item)
            else:
                self.env[item] = self.interpreter.value(self.env, item)
        for key, _, call in packed_layers(graph):
            self.ran.packed[key] = self.env[packed_root(graph, call)]
        self.ran.outputs = [self.interpreter.expr(self.env, graph.result)]
        return self.ran

    def _region(self, region: Region) -> None:
        made = outputs_of(self.graph, region)
        call = next(self.calls, None)
        shapes = [self.interpreter.shape(self.env, var) for var in made]
        found = list(call.args[len(call.args) - len(made) :]) if call is not None else []
        if call is None or [value.shape for value in found] != shapes:
            raise VerificationError(
                f"the run has no kernel call for layer {region.layer} ({region.kind}); {REPORT_IT}"
            )
        members = list(region.members)
        values = self._members(members, dict(self.env))
        for var, actual in zip(made, found, strict=True):
            self._compare(region, var, actual, values)
        self._integers(region, made, found, call, values)
        self.env.update(zip(made, found, strict=True))
        self.ran.kernels += 1

    def _integers(
        self,
        region: Region,
        made: list[Any],
        found: list[Array],
        call: KernelCall,
        values: dict[Any, Any],
    ) -> None:
        """Compare the accumulator of a packed layer with what the kernel's outputs show of it."""
        key = self.layers.get(region.anchor)
        if key is None or region.anchor in made:
            return
        right = self.ran.accumulators[key]
        floats = [i for i, value in enumerate(found) if value.dtype.kind == "f"]
        if floats:
            near = [self._moved(region, by) for by in (2, -2)]
            for i in floats:
                var, actual = self._unrounded(made[i]), found[i]
                wrong = nearest(actual, values[var], *(each[var] for each in near))
                wrong &= _apart(actual, values[var], bound_of(values[var]) / 10)
                if wrong.any():
                    wrong &= _apart(actual, values[var], NOISE * self._noise(region, var, values))
                if wrong.any():
                    raise _wrong(region, f"{int(wrong.sum())} of {wrong.size} integers differ")
            return
        if len(made) != 1 or len(found) != 1 or call.function is None:
            return
        chain = _comparison(self.graph, self.graph.value[made[0]], region.anchor)
        if chain is None:
            return
        inputs = {v for m in region.members for v in variables(self.graph.value[m])}
        pack = self.graph.value[made[0]]
        off = swept(call, len(inputs - set(region.members)), pack, right, chain)
        if off is not None and off.any():
            raise _wrong(region, f"{int(off.sum())} of {off.size} integers differ")

    def _moved(self, region: Region, by: int) -> dict[Any, Any]:
        """Compute a region with its accumulator moved."""
        env = dict(self.env)
        for var in region.members:
            if var.same_as(region.anchor):
                env[var] = self.ran.accumulators[self.layers[var]] + np.int32(by)
            else:
                env[var] = self.interpreter.value(env, var)
        return env

    def _members(
        self, members: list[Any], env: dict[Any, Any], rng: np.random.Generator | None = None
    ) -> dict[Any, Any]:
        """Compute the variables of a region; with a generator, every float moved by rounding."""
        if rng is not None:
            read = {v for m in members for v in variables(self.graph.value[m])} - self.stored
            env.update((v, shaken(env[v], rng)) for v in read if v in env)
        for var in members:
            key = self.layers.get(var)
            if key is not None and key in self.ran.accumulators:
                value = self.ran.accumulators[key]
            else:
                value = self.interpreter.value(env, var)
                if key is not None:
                    self.ran.accumulators[key] = value
            if rng is not None and var not in self.stored:
                value = shaken(value, rng, self.interpreter.terms(var))
            env[var] = value
        return env

    def _compare(self, region: Region, var: Any, actual: Array, values: dict[Any, Any]) -> None:
        expected = values[var]
        call = self.graph.value[var]
        if op_name(call) in PACKS:
            self._compare_bits(region, call, actual, expected, values)
            return
        if var in self.stored:
            self._compare_rounded(region, call.args[0], actual, values)
            return
        apart = difference(actual, expected)
        if expected.dtype.kind != "f":
            if apart.any():
                raise _wrong(region, described(actual, expected, apart > 0, "values"))
            return
        wrong = apart > bound_of(expected)
        if wrong.any():
            wrong = apart > np.maximum(bound_of(expected), NOISE * self._noise(region, var, values))
        if wrong.any():
            raise _wrong(region, described(actual, expected, wrong, "values"))

    def _compare_rounded(
        self, region: Region, source: Any, actual: Array, values: dict[Any, Any]
    ) -> None:
        """Compare what is stored as fp16 with the roundings of what is right within the bound."""
        exact = values[source]
        wrong = _apart(actual, exact, bound_of(exact))
        if wrong.any():
            wrong &= _apart(actual, exact, NOISE * self._noise(region, source, values))
        if wrong.any():
            with np.errstate(over="ignore"):
                rounded = exact.astype(actual.dtype)
            raise _wrong(region, described(actual, rounded, wrong, "values"))

    def _unrounded(self, var: Any) -> Any:
        return self.graph.value[var].args[0] if var in self.stored else var

    def _compare_bits(
        self, region: Region, call: Any, actual: Array, expected: Array, values: dict[Any, Any]
    ) -> None:
        if np.array_equal(actual, expected):
            return
        argument = values[call.args[0]]
        if op_name(call) == "relax.xnortvm.bitpack" and argument.dtype.kind == "f":
            differs = unpacked(actual ^ expected, call, argument.shape[-1])
            wrong = differs & (np.abs(argument) > bound_of(argument))
            if wrong.any():
                noise = self._noise(region, call.args[0], values)
                wrong &= np.abs(argument) > NOISE * noise
            if not wrong.any():
                self.ran.near += int(differs.sum())
                return
            place = tuple(int(i) for i in np.argwhere(wrong)[0])
            raise _wrong(
                region,
                f"{int(wrong.sum())} of {wrong.size} packed signs differ, the first at {place}, "
                f"where the value is {argument[place]:.7g}",
            )
        differs = unpacked(actual ^ expected, call, argument.shape[-1])
        place = tuple(int(i) for i in np.argwhere(differs)[0]) if differs.any() else ()
        raise _wrong(
            region,
            f"{int(differs.sum())} of {differs.size} packed signs differ, the first at {place}",
        )

    def _noise(self, region: Region, var: Any, values: dict[Any, Any]) -> Array:
        base = values[var]
        noise = np.zeros(base.shape)
        for seed in range(2):
            moved = self._members(list(region.members), dict(self.env), np.random.default_rng(seed))
            noise = np.maximum(noise, difference(moved[var], base))
        return np.asarray(noise.max())


def _apart(actual: Array, exact: Array, slack: Any) -> Array:
    """Tell which values differ by more than `slack`, apart from the rounding to their own type."""
    if actual.dtype != exact.dtype:
        return misrounded(actual, exact, slack)
    far: Array = difference(actual, exact) > slack
    return far


def _comparison(graph: Graph, pack: Any, anchor: Any) -> list[Array] | None:
    """Return the constants of ``acc < T`` or of ``acc · factors < limit``, whose bits are packed.

    None when what is packed is something else.
    """
    if op_name(pack) == "relax.xnortvm.threshold_pack":
        consts = [value_of(arg) for arg in pack.args[1:]]
        direct = pack.args[0].same_as(anchor) and all(c is not None for c in consts)
        return consts if direct else None  # type: ignore[return-value]
    chosen = graph.producer(pack.args[0])
    below = graph.producer(chosen.args[0]) if op_name(chosen) == "relax.where" else None
    if below is None or op_name(below) != "relax.less":
        return None
    found = [value_of(below.args[1])]
    step = graph.producer(below.args[0])
    while op_name(step) == "relax.multiply":
        found.insert(0, value_of(step.args[1]))
        step = graph.producer(step.args[0])
    direct = op_name(step) == "relax.astype" and step.args[0].same_as(anchor)
    return found if direct and all(each is not None for each in found) else None  # type: ignore[return-value]


def unpacked(bits: Array, call: Any, channels: int) -> Array:
    """Return which channels have bit 1, (..., C) bool."""
    from xnortvm.ops import unpack

    found: Array = unpack(bits, channels, int(call.attrs["groups"])) < 0
    return found


def _wrong(region: Region, how: str) -> VerificationError:
    return VerificationError(f"the kernel of layer {region.layer} is wrong: {how}; {REPORT_IT}")

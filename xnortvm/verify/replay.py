# SPDX-License-Identifier: Apache-2.0
"""The lowered model in NumPy, on the signs that the compiled code saw.

Two correct evaluations of a network round differently, and where the argument of a sign is within
rounding of 0 they may take it differently; behind it everything is another number. So signs are not
left to this evaluation: where they differ, the argument has to lie within rounding of 0, and is
moved to the compiled code's side. Then all that follows is compared on the same signs.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from xnortvm._tvm import IRModule
from xnortvm.errors import VerificationError
from xnortvm.graph.dataflow import Graph
from xnortvm.verify.bounds import NOISE, TINY, bound_of, difference, shaken
from xnortvm.verify.expose import Exposed
from xnortvm.verify.interpreter import Interpreter
from xnortvm.verify.kernels import Ran, packed_layers, packed_root, unpacked

Array = np.ndarray[Any, Any]


#: Random roundings that are tried: what lies within rounding of a jump jumps in one of them.
_DRAWS = 8


class Replay:
    """Evaluates a lowered module with exposed layers.

    Parameters
    ----------
    mod : IRModule
        Exposed, after the phases "normalise" and "lower".
    exposed : Exposed
        Which outputs are whose.
    ran : Ran
        What the compiled code made of the same inputs.
    inputs : list of ndarray

    Attributes
    ----------
    outputs : list of ndarray
        Of the user's model.
    layers : dict of str to (ndarray, ndarray)
        Input and output of each layer, in the user's order of dimensions.
    drift : dict of str to float
        By how many units of its integers the framework's sums of a layer are off; for `noise`.
    near, zeros, signs : int
        Signs within rounding of 0 that were taken differently; exact zeros of torch.sign taken as
        +1; all packed signs.
    """

    def __init__(self, mod: IRModule, exposed: Exposed, ran: Ran, inputs: list[Array]) -> None:
        self._interpreter = Interpreter(mod["main"])
        graph = self._interpreter.graph
        self._inputs = dict(zip(graph.params, inputs, strict=True))
        self._ran = ran
        self._wanted = list(graph.value[graph.result].fields)
        self._exposed = exposed
        self._keys = {var: key for key, var, _ in packed_layers(graph)}
        self._packs = _arguments(graph, ran)
        self.near = self.zeros = self.signs = 0
        self._counting = True
        self._noise: dict[Any, float] | None = None
        self.drift: dict[str, float] = {}
        values = self._run(self._settled)
        self._counting = False
        self.outputs = values[: exposed.outputs]
        pairs = values[exposed.outputs :]
        self.layers = {
            name: (pairs[2 * i], pairs[2 * i + 1]) for i, name in enumerate(exposed.layers)
        }

    def doubtful(self, layer: str, *, measured: bool = False) -> tuple[Array, Array]:
        """Return the least and the greatest input of a layer that rounding allows.

        Parameters
        ----------
        layer : str
        measured : bool
            Measure the noise of the arguments of signs, where they are small against what they are
            sums of, instead of using the bound.
        """
        place = self._exposed.outputs + 2 * self._exposed.layers.index(layer)
        noise = self._argument_noise() if measured else {}
        ends = []
        for direction in (-1, 1):

            def push(var: Any, value: Any, direction: int = direction) -> Any:
                if var not in self._packs:
                    return value
                value = self._settled(var, value)
                by = max(bound_of(value), noise.get(var, 0.0))
                moved = np.abs(value) <= by
                return np.where(moved, value + value.dtype.type(2 * direction * by), value)

            ends.append(self._run(push, [self._wanted[place]])[0])
        return np.minimum(*ends), np.maximum(*ends)

    def _argument_noise(self) -> dict[Any, float]:
        """Return `noise` of the argument of every packed sign."""
        if self._noise is None:
            base: dict[Any, Array] = {}
            found = dict.fromkeys(self._packs, 0.0)

            def keep(var: Any, value: Any) -> Any:
                if var in self._packs:
                    base[var] = value
                return self._settled(var, value)

            self._run(keep)
            for seed in range(_DRAWS):
                rng = np.random.default_rng(seed)

                def shake(var: Any, value: Any, rng: np.random.Generator = rng) -> Any:
                    value = self._shaken(var, value, rng)
                    if var in base:
                        apart = float(difference(value, base[var]).max(initial=0.0))
                        found[var] = max(found[var], NOISE * apart)
                    return self._settled(var, value)

                self._run(shake)
            self._noise = found
        return self._noise

    def noise(self, expr: Any) -> float:
        """Return by how much rounding moves a value, the signs being what they are."""
        base = self._run(self._settled, [expr])[0]
        found = 0.0
        for seed in range(_DRAWS):
            rng = np.random.default_rng(seed)

            def shake(var: Any, value: Any, rng: np.random.Generator = rng) -> Any:
                return self._settled(var, self._shaken(var, value, rng))

            apart = difference(self._run(shake, [expr])[0], base)
            found = max(found, float(apart.max()) if apart.size else 0.0)
        return NOISE * found

    def output_noise(self, index: int) -> float:
        """Return `noise` of an output of the user's model."""
        return self.noise(self._wanted[index])

    def layer_noise(self, layer: str) -> float:
        """Return `noise` of the output of a layer."""
        place = self._exposed.outputs + 2 * self._exposed.layers.index(layer) + 1
        return self.noise(self._wanted[place])

    def _shaken(self, var: Any, value: Any, rng: np.random.Generator) -> Any:
        """Move a value by rounding; the integers of a layer by what the framework rounds there."""
        drift = self.drift.get(self._keys.get(var, ("", -1))[0])
        if drift is not None:
            return value + drift * rng.choice([-1, 1])
        return shaken(value, rng, self._interpreter.terms(var))

    def step(self, layer: str) -> float:
        """Return what one unit of a binary layer's integers is worth in its output, at least.

        0 where that is unknown, such as in layers whose dimensions are arranged in another way.
        """
        made = [each for (name, _), each in self._ran.accumulators.items() if name == layer]
        output = self.layers[layer][1]
        if not made or any(each.shape != made[0].shape for each in made):
            return 0.0
        total: Array = np.stack(made).sum(axis=0, dtype=np.float64)
        if output.ndim == 4:  # NCHW, as the user has it
            total = np.moveaxis(total, -1, 1)
        if total.shape != output.shape or not total.any():
            return 0.0
        known = total != 0
        return float(np.abs(output[known] / total[known]).min())

    def _run(self, seen: Any, wanted: list[Any] | None = None) -> list[Any]:
        return self._interpreter.run(
            self._inputs,
            self._wanted if wanted is None else wanted,
            seen=seen,
            known=lambda var, _, __: self._ran.accumulators.get(self._keys.get(var, ("", -1))),
        )

    def _settled(self, var: Any, value: Any) -> Any:
        """Bring the argument of a packed sign to the side that the compiled code saw."""
        packs = self._packs.get(var)
        if packs is None:
            return value
        channels = value.shape[-1]
        negative = {
            str(call.attrs["zero"]): unpacked(bits, call, channels) for call, bits, _ in packs
        }
        differs = np.zeros(value.shape, bool)
        for zero, bits in negative.items():
            differs |= bits != (value <= 0 if zero == "-1" else value < 0)
        if self._counting:
            self.signs += value.size
            self.near += int(differs.sum())
        tiny = value.dtype.type(TINY if value.dtype.kind == "f" else 1)
        if differs.any():
            if self._counting:
                self._refuse_far(var, value, differs, packs)
            below = np.logical_and.reduce(list(negative.values()))
            above = np.logical_and.reduce([~bits for bits in negative.values()])
            side = np.where(below, -tiny, np.where(above, tiny, 0)).astype(value.dtype)
            value = np.where(differs, side, value)
        if "0" in negative:
            zero = value == 0
            if zero.any():
                if self._counting:
                    self.zeros += int(zero.sum())
                value = np.where(zero, tiny, value)
        return value

    def _refuse_far(self, var: Any, value: Array, differs: Array, packs: list[Any]) -> None:
        far = differs & (np.abs(value) > bound_of(value))
        if not far.any():
            return
        self._counting = False
        far &= np.abs(value) > self.noise(var)
        self._counting = True
        if not far.any():
            return
        place = tuple(int(i) for i in np.argwhere(far)[0])
        raise VerificationError(
            f"the input of layer {packs[0][2]} is wrong: {int(far.sum())} of {far.size} signs "
            f"differ from those of the lowered model, the first at {place} (channels last), where "
            f"the value is {value[place]:.7g}; a pass of the compiler is wrong: compile again with "
            "dump_dir= and report the folder"
        )


def _arguments(graph: Graph, ran: Ran) -> dict[Any, list[tuple[Any, Array, str]]]:
    """From the argument of each packed sign to its pack calls, what the run made, and a reader."""
    found: dict[Any, list[tuple[Any, Array, str]]] = {}
    done: set[Any] = set()
    for key, _, call in packed_layers(graph):
        root = packed_root(graph, call)
        pack = graph.producer(root)
        if root not in done and pack is not None and key in ran.packed:
            done.add(root)
            found.setdefault(pack.args[0], []).append((pack, ran.packed[key], key[0]))
    return found

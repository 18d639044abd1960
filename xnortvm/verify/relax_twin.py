# SPDX-License-Identifier: Apache-2.0
"""Run a Relax model as it was imported, before any pass of the compiler."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from xnortvm.frontend.twin import Array, TwinRun
from xnortvm.graph.dataflow import Graph
from xnortvm.verify.expose import Exposed
from xnortvm.verify.interpreter import Interpreter


class RelaxTwin:
    """The exposed module, in NumPy.

    Parameters
    ----------
    exposed : Exposed
        Before any pass.
    """

    framework = "the imported Relax module"

    def __init__(self, exposed: Exposed) -> None:
        self._exposed = exposed
        self._interpreter = Interpreter(exposed.mod["main"])
        graph: Graph = self._interpreter.graph
        fields = list(graph.value[graph.result].fields)
        self._fields = fields
        pairs = fields[exposed.outputs :]
        self._layers = {pairs[2 * i + 1]: name for i, name in enumerate(exposed.layers)}

    def examples(self) -> list[Array] | None:
        """Return nothing: a module has no data."""
        return None

    def cut(self, inputs: Sequence[Array], forced: Mapping[str, Array]) -> TwinRun:
        """Evaluate it, the named layers on given inputs."""
        interpreter = self._interpreter

        def known(var: Any, call: Any, args: list[Any]) -> Any:
            instead = forced.get(self._layers.get(var, ""))
            if instead is None or instead.shape != args[0].shape:
                return None
            return interpreter.call(var, call, [instead, *args[1:]])

        given = dict(zip(interpreter.graph.params, inputs, strict=True))
        values = interpreter.run(given, self._fields, known=known)
        pairs = values[self._exposed.outputs :]
        layers = {
            name: (pairs[2 * i], pairs[2 * i + 1]) for i, name in enumerate(self._exposed.layers)
        }
        return TwinRun(values[: self._exposed.outputs], layers)

    def whole(self, inputs: Sequence[Array]) -> list[Array] | None:
        """Return nothing: `cut` has compared all there is."""
        return None

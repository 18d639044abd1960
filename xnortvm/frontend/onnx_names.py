# SPDX-License-Identifier: Apache-2.0
"""Module paths and source lines of ONNX nodes, as far as the exporter wrote them down."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable
from typing import Any

from xnortvm.frontend.sources import SourceLine, innermost


class OnnxNames:
    """Names the layer of each node of a model.

    PyTorch's dynamo exporter keeps the module path in the node's metadata, the older one spells it
    as ``/layer1/layer1.0/conv1/Conv``. Other exporters' names are taken as they are.

    Parameters
    ----------
    parameters : iterable of str
        Names of the initialisers: ``layer1.0.conv1.weight`` shows that ``layer1.0.conv1`` is a
        path.
    """

    def __init__(self, parameters: Iterable[str]) -> None:
        self._paths: set[str] = set()
        for name in parameters:
            while "." in name:
                name = name.rpartition(".")[0]
                self._paths.add(name)

    def layer(self, node: Any) -> str:
        """Return the module path of a node, or its own name."""
        scopes = _metadata(node).get("pkg.torch.onnx.name_scopes")
        if scopes is not None:
            path = _innermost_scope(scopes)
        elif node.name.startswith("/"):
            path = self._known(self._first_call(_joined(node.name.split("/")[1:-1])))
        else:
            path = ""
        return path or node.name or f"{node.op_type} → {node.output[0]}"

    def _known(self, path: str) -> str:
        """Return the one known path that ends like this one: the exporter leaves out containers."""
        ends = [known for known in self._paths if known.endswith(f".{path}")]
        return ends[0] if path and path not in self._paths and len(ends) == 1 else path

    def _first_call(self, path: str) -> str:
        """Return ``conv`` for ``conv_1``, the second call of a shared module."""
        if path in self._paths:
            return path
        parts = path.split(".")
        for index in range(len(parts)):
            prefix = ".".join(parts[: index + 1])
            bare = re.sub(r"_\d+$", "", prefix)
            if bare != prefix and prefix not in self._paths and bare in self._paths:
                parts[index] = bare.rpartition(".")[2]
        return ".".join(parts)


def source_line(node: Any) -> SourceLine | None:
    """Return the line of the user's code that made a node, where the exporter kept it."""
    return innermost(_metadata(node).get("pkg.torch.onnx.stack_trace"))


def _metadata(node: Any) -> dict[str, str]:
    return {entry.key: entry.value for entry in getattr(node, "metadata_props", ())}


def _innermost_scope(text: str) -> str:
    try:
        scopes = ast.literal_eval(text)
    except (SyntaxError, ValueError):
        return ""
    return str(scopes[-2]) if isinstance(scopes, list) and len(scopes) > 1 else ""


def _joined(scopes: list[str]) -> str:
    """Join scopes to a path; a child of a container repeats the container: layer1, layer1.0."""
    path: list[str] = []
    for scope in scopes:
        if path and scope.startswith(f"{path[-1]}."):
            path[-1] = scope
        else:
            path.append(scope)
    return ".".join(path)

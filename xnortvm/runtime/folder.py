# SPDX-License-Identifier: Apache-2.0
"""What a model saved as a folder holds beside the members of a ``.xnor`` file.

Example inputs and expected outputs for the self-test, programs in C and C++ with a CMake file, the
model as objects that can be linked into a program, and a page that says how to use all of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

import numpy as np

from xnortvm.runtime.elf import defined_symbols, is_elf

Array = np.ndarray[Any, Any]

#: Files that are the same for every model, as they are in ``xnortvm/runtime/example``.
_PROGRAMS = ("CMakeLists.txt", "example.c", "example.cpp", "helpers.h")
# DLPack's codes of the kinds of NumPy.
_CODES = {"i": "kDLInt", "u": "kDLUInt", "f": "kDLFloat", "b": "kDLBool"}
# Kernels and the constants; slots that TVM's runtime fills when it takes the model over.
_REGISTERED = ("__tvm_ffi_", "__TVM")


@dataclass(frozen=True)
class Example:
    """What a model gives for some inputs, found where it was compiled.

    Attributes
    ----------
    inputs, outputs : tuple of ndarray
        As the model takes and gives them.
    bound : float
        Differences up to this part of an output's largest value are rounding.
    """

    inputs: tuple[Array, ...]
    outputs: tuple[Array, ...]
    bound: float


def contents(
    manifest: dict[str, Any],
    members: dict[str, bytes],
    objects: Mapping[str, bytes],
    example: Example | None,
) -> tuple[dict[str, Any], dict[str, bytes], dict[str, str]]:
    """Return manifest, members and texts of a folder.

    Parameters
    ----------
    manifest, members
        Of the model as a file.
    objects : mapping of str to bytes
        Object files that the library was linked from; empty when they are not known.
    example : Example or None
        Without one there is no self-test and there are no programs; these are also left out where
        C has no type for an array.
    """
    texts = {}
    if example is not None:
        manifest = manifest | {"selftest": _selftest(manifest["interface"], example)}
        members = members | _data("inputs", example.inputs) | _data("outputs", example.outputs)
    if example is not None and _for_c(example):
        texts = {name: _read(name) for name in _PROGRAMS}
        texts["model.h"] = _header(manifest["selftest"])
        texts["README.md"] = _readme(manifest)
        if all(map(is_elf, objects.values())) and objects:
            members = members | {f"static/{name}": code for name, code in objects.items()}
            texts["static/register.c"] = _registration(objects.values())
    return manifest, members, texts


def _for_c(example: Example) -> bool:
    """Tell whether C has types for all arrays: it has none for half floats and complex numbers."""
    arrays = (*example.inputs, *example.outputs)
    return all(a.dtype.kind in "iub" or a.dtype.name in ("float32", "float64") for a in arrays)


def _file(kind: str, index: int) -> str:
    return f"example/{kind}{index}.bin"


def _data(kind: str, arrays: Sequence[Array]) -> dict[str, bytes]:
    return {_file(kind, i): np.ascontiguousarray(a).tobytes() for i, a in enumerate(arrays)}


def _selftest(interface: Mapping[str, Any], example: Example) -> dict[str, Any]:
    """Return names, files, shapes and dtypes of the example's arrays."""

    def rows(kind: str, arrays: Sequence[Array]) -> list[dict[str, Any]]:
        return [
            {
                "name": spec["name"],
                "file": _file(kind, index),
                "shape": list(array.shape),
                "dtype": array.dtype.name,
            }
            for index, (spec, array) in enumerate(zip(interface[kind], arrays, strict=True))
        ]

    return {
        "inputs": rows("inputs", example.inputs),
        "outputs": rows("outputs", example.outputs),
        "bound": example.bound,
    }


def _read(name: str) -> str:
    return (resources.files("xnortvm.runtime") / "example" / name).read_text()


def _header(selftest: Mapping[str, Any]) -> str:
    """Write the arrays of the example as C: what is constant about the model."""
    lines = [
        "/* Written by xnortvm: the example's inputs and outputs of the model in this folder. */",
        "#ifndef MODEL_H",
        "#define MODEL_H",
        "",
        '#include "helpers.h"',
        "",
        f"#define MODEL_NUM_INPUTS {len(selftest['inputs'])}",
        f"#define MODEL_NUM_OUTPUTS {len(selftest['outputs'])}",
        f"#define MODEL_BOUND {selftest['bound']:.9g} /* of the largest value of an output */",
        "#define MODEL_REPEATS 20",
        "",
    ]
    for kind in ("inputs", "outputs"):
        rows = selftest[kind]
        for index, row in enumerate(rows):
            shape = ", ".join(map(str, row["shape"])) or "1"
            lines.append(f"static const int64_t model_{kind}_shape{index}[] = {{{shape}}};")
        lines.append(f"static const ModelTensor model_{kind}[] = {{")
        for index, row in enumerate(rows):
            dtype = np.dtype(row["dtype"])
            lines.append(
                f'    {{"{_escaped(row["name"])}", "{row["file"]}", '
                f"{{{_CODES[dtype.kind]}, {dtype.itemsize * 8}, 1}}, {len(row['shape'])}, "
                f"model_{kind}_shape{index}}},"
            )
        lines += ["};", ""]
    lines += [
        "#ifdef __cplusplus",
        'extern "C"',
        "#endif",
        "void model_register(void); /* static/register.c: makes a linked-in model known */",
        "",
        "#endif",
        "",
    ]
    return "\n".join(lines)


def _escaped(name: str) -> str:
    return name.replace("\\", "\\\\").replace('"', '\\"')


def _registration(objects: Any) -> str:
    """Write C that tells TVM's runtime where the parts of a linked-in model are."""
    names = sorted({n for code in objects for n in defined_symbols(code)})
    names = [name for name in names if name.startswith(_REGISTERED)]
    lines = [
        "/* Written by xnortvm: tells TVM where the parts of the model are, when it is part of the",
        " * program. One program can hold one such model. */",
        "#include <tvm/ffi/extra/c_env_api.h>",
        "",
        *(f"extern char {name}[];" for name in names),
        "",
        "void model_register(void) {",
        *(f'  TVMFFIEnvModRegisterSystemLibSymbol("{name}", {name});' for name in names),
        "}",
        "",
    ]
    return "\n".join(lines)


def _readme(manifest: Mapping[str, Any]) -> str:
    interface = manifest["interface"]

    def rows(kind: str) -> list[str]:
        return [
            f"| {kind} | `{s['name']}` | {s['dtype']} | {'×'.join(map(str, s['shape'])) or '1'} |"
            for s in interface[f"{kind}s"]
        ]

    needs = f"glibc ≥ {manifest['glibc']}" if manifest["glibc"] else "any glibc"
    table = ["| | name | dtype | shape |", "|---|---|---|---|", *rows("input"), *rows("output")]
    return _read("README.md").format(
        target=manifest["target"],
        triple=manifest["machine"]["triple"],
        needs=needs,
        table="\n".join(table),
    )

# SPDX-License-Identifier: Apache-2.0
"""The C side: header, expected outputs, and a program that compares with them. Plain C99."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from xnortvm.freestanding.entry import BAD_POINTER
from xnortvm.freestanding.samples import MULTIPLIER, STEP
from xnortvm.runtime.interface import TensorSpec

Array = np.ndarray[Any, Any]

#: What a float output may differ by, relative to the largest expected value of that output.
TOLERANCE = 1e-4
#: Values of an output that are stored; of larger outputs every second, third, …
MOST_EXPECTED = 1000


class CType(NamedTuple):
    """An element type in C."""

    name: str
    size: int
    note: str = ""


#: By NumPy's name. C99 has no 16-bit floats.
C_TYPES = {
    "float64": CType("double", 8),
    "float32": CType("float", 4),
    "int64": CType("int64_t", 8),
    "int32": CType("int32_t", 4),
    "int16": CType("int16_t", 2),
    "int8": CType("int8_t", 1),
    "uint64": CType("uint64_t", 8),
    "uint32": CType("uint32_t", 4),
    "uint16": CType("uint16_t", 2),
    "uint8": CType("uint8_t", 1),
    "bool": CType("uint8_t", 1, ", 0 or 1"),
}


def parameters(inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]) -> str:
    """Return the parameters of ``PREFIX_run``."""
    taken = [f"const {C_TYPES[spec.dtype].name} *input{i}" for i, spec in enumerate(inputs)]
    given = [f"{C_TYPES[spec.dtype].name} *output{i}" for i, spec in enumerate(outputs)]
    return ", ".join([*taken, *given, "void *workspace"])


def header(
    prefix: str,
    inputs: Sequence[TensorSpec],
    outputs: Sequence[TensorSpec],
    *,
    about: str,
    alignment: int,
    workspace: int,
    needs: Sequence[str],
) -> str:
    """Return ``PREFIX.h``.

    Parameters
    ----------
    prefix : str
        Of functions, and in capitals of macros.
    inputs, outputs : sequence of TensorSpec
    about : str
        What was compiled, by what, for what.
    alignment, workspace : int
        Bytes.
    needs : sequence of str
        Symbols that the object file needs of the C library.
    """
    big = prefix.upper()
    lines = [
        f"/* {_comment(about)}. Written by a program. */",
        f"#ifndef {big}_H",
        f"#define {big}_H",
        "",
        "#include <stddef.h>",
        "#include <stdint.h>",
        "",
        "/* Every pointer has to be a multiple of this. */",
        f"#define {big}_ALIGNMENT {alignment}",
        f"#define {big}_ALIGN(pointer) \\",
        f"  ((void *)(((uintptr_t)(pointer) + {alignment - 1}u) & ~(uintptr_t){alignment - 1}u))",
        "",
        "/* Memory that a run uses. What it holds before and after means nothing. */",
        f"#define {big}_WORKSPACE_BYTES {workspace}",
        "",
        f"#define {big}_INPUTS {len(inputs)}",
        f"#define {big}_OUTPUTS {len(outputs)}",
    ]
    for kind, specs in (("input", inputs), ("output", outputs)):
        for index, spec in enumerate(specs):
            lines += _tensor_macros(f"{big}_{kind.upper()}{index}", f"{kind}{index}", spec)
    needed = ", ".join(needs) if needs else "nothing"
    lines += [
        "",
        f"enum {{ {big}_OK = 0, {big}_BAD_POINTER = {BAD_POINTER} }};",
        "",
        "#ifdef __cplusplus",
        'extern "C" {',
        "#endif",
        "",
        "/* Run the model. No two of inputs, outputs and workspace may overlap. Only outputs and",
        " * workspace are written and nothing is kept between runs, so that threads may run the",
        f" * model at once, each with a workspace of its own. Returns {big}_OK, or",
        f" * {big}_BAD_POINTER, with nothing written, when a pointer is null or misaligned.",
        f" * Needs of the C library: {needed}. */",
        f"int {prefix}_run({parameters(inputs, outputs)});",
        "",
        f"/* {big}_WORKSPACE_BYTES of the object file that is linked. */",
        f"size_t {prefix}_workspace_bytes(void);",
        "",
        "#ifdef __cplusplus",
        "}",
        "#endif",
        "#endif",
        "",
    ]
    return "\n".join(lines)


def _tensor_macros(macro: str, parameter: str, spec: TensorSpec) -> list[str]:
    shape = [int(dim) for dim in spec.shape]
    kind = C_TYPES[spec.dtype]
    count = math.prod(shape)
    return [
        "",
        f"/* {parameter}: {_comment(spec.name)}, {spec}{kind.note}, row by row. */",
        f"#define {macro}_NAME {_quoted(spec.name)}",
        f"#define {macro}_RANK {len(shape)}",
        f"#define {macro}_SHAPE {{{', '.join(map(str, shape or [1]))}}}",
        f"#define {macro}_COUNT {count}",
        f"#define {macro}_BYTES {count * kind.size}",
    ]


def expected_header(prefix: str, expected: Sequence[Array]) -> str:
    """Return ``PREFIX_expected.h``: what the example has to find.

    Parameters
    ----------
    prefix : str
    expected : sequence of ndarray
        All outputs for the inputs that `xnortvm.freestanding.samples` makes.
    """
    lines = [
        f"/* Outputs of {prefix}_run for the inputs that main.c makes. Written by a program. */",
        "#include <math.h>",
        "#include <stdint.h>",
        "",
    ]
    for index, array in enumerate(expected):
        flat = array.reshape(-1)
        stride = max(1, -(-flat.size // MOST_EXPECTED))
        values = flat[::stride]
        macro = f"{prefix.upper()}_EXPECTED{index}"
        kind = C_TYPES[array.dtype.name].name
        lines += [
            f"/* output{index}[i * {stride}] for i = 0, 1, ... */",
            f"#define {macro}_STRIDE {stride}",
            f"#define {macro}_COUNT {values.size}",
            *_tolerance(macro, array),
            f"static const {kind} {prefix}_expected{index}[] = {{",
            *_rows([_literal(value) for value in values.tolist()] or ["0"]),
            "};",
            "",
        ]
    return "\n".join(lines)


def _tolerance(macro: str, array: Array) -> list[str]:
    if array.dtype.kind != "f":
        return []
    finite = np.abs(array[np.isfinite(array)].astype(np.float64))
    return [f"#define {macro}_TOLERANCE {float(TOLERANCE * finite.max(initial=0.0))!r}"]


def _literal(value: Any) -> str:
    if isinstance(value, float):
        if not math.isfinite(value):
            return "NAN" if math.isnan(value) else ("-INFINITY", "INFINITY")[value > 0]
        return re.sub(r"\.?0*p", "p", value.hex())
    if isinstance(value, bool) or abs(value) < 2**31:
        return str(int(value))
    return "INT64_MIN" if value == -(2**63) else f"{value}{'u' if value >= 2**63 else ''}"


def _rows(words: Sequence[str]) -> list[str]:
    rows, row = [], " "
    for word in words:
        if len(row) + len(word) > 96:
            rows.append(row)
            row = " "
        row += f" {word},"
    return [*rows, row]


def example(prefix: str, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]) -> str:
    """Return ``main.c``: run the model on inputs that it makes, compare with what is expected."""
    big = prefix.upper()
    lines = [
        "/* Runs the model once and compares its outputs with the expected ones.",
        f" *   cc -O2 main.c {prefix}.o -lm -o example && ./example",
        f" * {prefix}.h says what {prefix}.o needs; printf is for people. */",
        "#include <stdio.h>",
        "",
        f'#include "{prefix}.h"',
        f'#include "{prefix}_expected.h"',
        "",
        "/* C99 cannot align arrays: each has room to begin at a multiple of the alignment. */",
        "#define ARRAY(type, name, bytes) \\",
        f"  static unsigned char name##_room[(bytes) + {big}_ALIGNMENT - 1]; \\",
        f"  type *name = {big}_ALIGN(name##_room)",
        "",
        "/* Counts the expected values of an output, and those that differ. */",
        "#define COMPARE(i, differ) \\",
        f"  for (n = 0; n < {big}_EXPECTED##i##_COUNT; ++n, ++all) \\",
        f"  wrong += differ(output##i[n * {big}_EXPECTED##i##_STRIDE], {prefix}_expected##i[n])",
        "",
    ]
    tensors = [("input", i, spec) for i, spec in enumerate(inputs)]
    tensors += [("output", i, spec) for i, spec in enumerate(outputs)]
    lines += [
        "static uint32_t state = 1;",
        "static uint32_t next(void) { /* 24 random bits, the same everywhere */",
        f"  return (state = state * {MULTIPLIER}u + {STEP}u) >> 8;",
        "}",
        "",
    ]
    if any(spec.dtype.startswith("float") for spec in outputs):
        lines += [
            "static double tolerance;",
            "static int is_far(double found, double wanted) {",
            "  if (found == wanted || (found != found && wanted != wanted)) return 0;",
            "  return !(found - wanted <= tolerance && wanted - found <= tolerance);",
            "}",
            "",
        ]
    if any(not spec.dtype.startswith("float") for spec in outputs):
        lines += ["#define IS_OTHER(found, wanted) ((found) != (wanted))", ""]
    lines.append("int main(void) {")
    for kind, i, spec in tensors:
        name = C_TYPES[spec.dtype].name
        lines.append(f"  ARRAY({name}, {kind}{i}, {big}_{kind.upper()}{i}_BYTES);")
    lines += [
        f"  ARRAY(void, workspace, {big}_WORKSPACE_BYTES);",
        "  long n, wrong = 0, all = 0;",
        f"  if ({prefix}_workspace_bytes() != {big}_WORKSPACE_BYTES) {{",
        f'    puts("{prefix}.h is not of {prefix}.o");',
        "    return 2;",
        "  }",
    ]
    for i, spec in enumerate(inputs):
        lines.append(f"  for (n = 0; n < {big}_INPUT{i}_COUNT; ++n) input{i}[n] = {_fill(spec)};")
    pointers = [f"{kind}{i}" for kind, i, _ in tensors]
    lines += [
        f"  if ({prefix}_run({', '.join([*pointers, 'workspace'])}) != {big}_OK) {{",
        '    puts("a pointer is null or misaligned");',
        "    return 2;",
        "  }",
    ]
    for i, spec in enumerate(outputs):
        lines.append(_compare(prefix, i, spec))
    lines += [
        '  printf("%ld of %ld values differ\\n", wrong, all);',
        "  return wrong != 0;",
        "}",
        "",
    ]
    return "\n".join(lines)


def _compare(prefix: str, i: int, spec: TensorSpec) -> str:
    if not spec.dtype.startswith("float"):
        return f"  COMPARE({i}, IS_OTHER);"
    return f"  tolerance = {prefix.upper()}_EXPECTED{i}_TOLERANCE;  COMPARE({i}, is_far);"


def _fill(spec: TensorSpec) -> str:
    kind = C_TYPES[spec.dtype].name
    if spec.dtype in ("float32", "float64"):
        return f"({kind})next() / 8388608 - 1"
    return f"({kind})(next() >> {23 if spec.dtype == 'bool' else 22})"


def _quoted(text: str) -> str:
    escaped = "".join(
        c if c.isascii() and c.isprintable() and c not in '"\\?' else "_" for c in text
    )
    return f'"{escaped}"'


def _comment(text: str) -> str:
    return text.replace("*/", "* /").replace("/*", "/ *").replace("\n", " ")

# SPDX-License-Identifier: Apache-2.0
"""Inline PTX in generated CUDA source → calls of the emulated instructions in ``device.hpp``."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

#: One operand: the registers of a brace-enclosed vector, or a single one.
Operand = list[str]

_ASM = re.compile(
    r'asm\s+volatile\(\s*"((?:[^"\\]|\\.)*)"\s*((?::[^;]*)?)\);|asm\("([^"]*)"([^;]*)\);'
)


class UnknownInstructionError(NotImplementedError):
    """The emulator does not know an instruction; nothing is skipped."""


def translate(source: str) -> str:
    """Return CUDA source with every ``asm`` statement replaced by C++."""

    def replace(match: re.Match[str]) -> str:
        return statement(match[1], _expressions(match[2]))

    return _ASM.sub(replace, source)


def statement(text: str, registers: Sequence[str]) -> str:
    """Return C++ for the text of one ``asm`` with the expressions bound to ``%0``, ``%1`` …"""
    text = text.replace("\\n", " ").replace("\\t", " ").strip()
    if text.startswith("{") and text.endswith("}"):
        text = text[1:-1]
    parts = (part.strip() for part in text.split(";"))
    code = [_instruction(part, registers) for part in parts if part]
    return "{ " + " ".join(code) + " }"


def _expressions(rest: str) -> list[str]:
    """Return the expressions of ``: "=r"(x), … : "r"(y), … : "memory"``, in order."""
    return re.findall(r'"[=+]?[a-z]"\s*\(((?:[^()]|\((?:[^()]|\([^()]*\))*\))*)\)', rest)


def _instruction(text: str, registers: Sequence[str]) -> str:
    predicate = ""
    if guard := re.match(r"@(!?)(\w+)\s+(.*)", text):
        predicate, text = f"if ({guard[1]}{guard[2]}) ", guard[3]
    opcode, _, rest = text.partition(" ")
    operands = [[_bind(r, registers) for r in group] for group in _operands(rest)]
    for pattern, emit in INSTRUCTIONS:
        if match := re.fullmatch(pattern, opcode):
            return predicate + emit(match, operands)
    raise UnknownInstructionError(f"the emulator does not know the PTX instruction {text!r}")


def _operands(rest: str) -> list[Operand]:
    groups = re.findall(r"\{([^}]*)\}|([^,{}]+)", rest)
    found = [(vector or single).strip() for vector, single in groups]
    return [[r.strip(" []") for r in group.split(",")] for group in found if group]


def _bind(text: str, registers: Sequence[str]) -> str:
    return re.sub(r"%(\d+)", lambda m: f"({registers[int(m[1])]})", text)


def _mma(match: re.Match[str], operands: list[Operand]) -> str:
    d, a, b, c = operands
    rows, words, xor = int(match[1]), int(match[2]) // 32, match[3] == "xor"
    arrays = "".join(
        f"const uint {name}[] = {{{', '.join(values)}}}; "
        for name, values in (("a_", a), ("b_", b), ("c_", c))
    )
    store = " ".join(f"{value} = d_[{i}];" for i, value in enumerate(d))
    call = f"emu::mma_b1<{rows}, {words}, {str(xor).lower()}>(d_, a_, b_, c_);"
    return f"{{ {arrays}uint d_[{len(d)}]; {call} {store} }}"


def _wgmma(match: re.Match[str], operands: list[Operand]) -> str:
    sums, a, b, keep = operands
    listed = ", ".join(f"&{value}" for value in sums)
    return (
        f"{{ uint* sums_[] = {{{listed}}}; "
        f"emu::wgmma_b1<{match[1]}>(sums_, {a[0]}, {b[0]}, {keep[0]}); }}"
    )


def _ldmatrix(match: re.Match[str], operands: list[Operand]) -> str:
    to, address = operands
    store = " ".join(f"{value} = r_[{i}];" for i, value in enumerate(to))
    return f"{{ uint r_[{len(to)}]; emu::ldmatrix(r_, {match[1]}, {address[0]}); {store} }}"


def _shuffle(match: re.Match[str], operands: list[Operand]) -> str:
    to, value, lane, clamp, mask = (operand[0] for operand in operands)
    call = {
        "bfly": "__shfl_xor_sync",
        "idx": "__shfl_sync",
        "down": "__shfl_down_sync",
        "up": "__shfl_up_sync",
    }[match[1]]
    whole = "0" if match[1] == "up" else "31"
    return (
        f"{{ emu_width(({clamp}) == {whole} ? 32 : 0); {to} = {call}({mask}, {value}, {lane}); }}"
    )


def _load(_match: re.Match[str], operands: list[Operand]) -> str:
    to, address = operands
    size = 4 * len(to)
    store = " ".join(f"{value} = v_[{i}];" for i, value in enumerate(to))
    place = f'emu::shared_at({address[0]}, {size}, {size}, "ld.shared")'
    return f"{{ uint v_[{len(to)}]; memcpy(v_, {place}, {size}); {store} }}"


def _copy(_match: re.Match[str], operands: list[Operand]) -> str:
    to, source, size, *read = (operand[0] for operand in operands)
    return f"emu::cp_async({to}, {source}, {size}, {read[0] if read else size});"


def _call(name: str) -> Callable[[re.Match[str], list[Operand]], str]:
    def emit(_match: re.Match[str], operands: list[Operand]) -> str:
        return f"{name}({', '.join(operand[0] for operand in operands)});"

    return emit


def _nothing(_match: re.Match[str], _operands: list[Operand]) -> str:
    return ";"


def _lines(text: str) -> Callable[[re.Match[str], list[Operand]], str]:
    """Return C++ in which ``{0}``, ``{1}`` … are the operands."""

    def emit(_match: re.Match[str], operands: list[Operand]) -> str:
        return text.format(*(operand[0] for operand in operands))

    return emit


#: From the opcode to what makes C++ of its operands; the first that matches.
INSTRUCTIONS: tuple[tuple[str, Callable[[re.Match[str], list[Operand]], str]], ...] = (
    (r"\.reg", _nothing),
    (r"setp\.ne\.[bsu]32", _lines("bool {0} = ({1}) != {2};")),
    (r"mma\.sync\.aligned\.m(8|16)n8k(128|256)\.row\.col\.s32\.b1\.b1\.s32\.(and|xor)\.popc", _mma),
    (r"wgmma\.mma_async\.sync\.aligned\.m64n(\d+)k256\.s32\.b1\.b1\.and\.popc", _wgmma),
    (r"wgmma\.fence\.sync\.aligned", _call("emu::wgmma_fence")),
    (r"wgmma\.commit_group\.sync\.aligned", _call("emu::wgmma_commit")),
    (r"wgmma\.wait_group\.sync\.aligned", _call("emu::wgmma_wait")),
    (r"ldmatrix\.sync\.aligned\.m8n8\.x([124])\.shared(?:::cta)?\.b16", _ldmatrix),
    (r"ld\.shared(?:\.v[24])?\.[bu]32", _load),
    (r"st\.shared\.[bu]32", _lines('*(uint*)emu::shared_at({0}, 4, 4, "st.shared") = {1};')),
    (r"cp\.async\.c[ag]\.shared(?:::cta)?\.global(?:\.L2::\d+B)?", _copy),
    (r"cp\.async\.commit_group", _call("emu::cp_async_commit")),
    (r"cp\.async\.wait_group", _call("emu::cp_async_wait")),
    (r"cp\.async\.wait_all", _lines("emu::cp_async_commit(); emu::cp_async_wait(0);")),
    (r"selp\.b32", _lines("{0} = {3} ? {1} : {2};")),
    (r"mbarrier\.init\.shared(?:::cta)?\.b64", _call("emu::mbarrier_init")),
    (
        r"mbarrier\.arrive\.expect_tx\.shared(?:::cta)?\.b64",
        _lines("emu::mbarrier_expect({1}, {2});"),
    ),
    (
        r"mbarrier\.try_wait\.parity\.shared(?:::cta)?\.b64",
        _lines("bool {0} = emu::mbarrier_try_wait({1}, {2});"),
    ),
    (
        r"cp\.async\.bulk\.shared::cluster\.global\.mbarrier::complete_tx::bytes",
        _call("emu::bulk_copy"),
    ),
    (r"fence\.proxy\.async(\.shared::cta)?", _nothing),
    (r"setmaxnreg\.(inc|dec)\.sync\.aligned\.u32", _nothing),
    (r"(?:bar|barrier)(?:\.cta)?\.sync(?:\.aligned)?", _call("emu::bar_sync")),
    (r"(?:bar|barrier)(?:\.cta)?\.arrive(?:\.aligned)?", _call("emu::bar_arrive")),
    (r"shfl\.sync\.(bfly|idx|up|down)\.b32", _shuffle),
    (r"lop3\.b32", _lines("{0} = emu::lop3({1}, {2}, {3}, {4});")),
    (r"popc\.b32", _lines("{0} = __popc({1});")),
)

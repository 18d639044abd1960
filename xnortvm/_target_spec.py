# SPDX-License-Identifier: Apache-2.0
"""Read every spelling of a target into one plain dict of TVM's options.

TVM 0.27 no longer reads ``"llvm -mcpu=cortex-a72"``; people, tutorials and command lines still
write it. Here it is read, and every option that nobody knows is refused with the nearest names.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from xnortvm._cpus import find_cpu, host_triple
from xnortvm._presets import LISTING, PRESETS
from xnortvm._triples import normalize_triple
from xnortvm._tvm import TvmTarget, target_tags
from xnortvm.errors import TargetError, near


class Spec(NamedTuple):
    """A target as options of TVM, before anything is derived from them.

    Attributes
    ----------
    kind : str
        ``"llvm"`` or ``"cuda"``.
    options : dict
        Typed values by option name, without ``kind``.
    preset : str or None
        The preset that it is, if it is one and nothing but the thread count was changed.
    source : str
        How the user spelt it, quoted, for messages.
    """

    kind: str
    options: dict[str, Any]
    preset: str | None
    source: str


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise ValueError("a word")
    return str(value)


def _count(value: Any) -> int:
    if isinstance(value, bool) or not str(value).isdecimal():
        raise ValueError("a whole number")
    return int(value)


def _positive(value: Any) -> int:
    if (number := _count(value)) < 1:
        raise ValueError("a whole number of at least 1")
    return number


def _attributes(value: Any) -> tuple[str, ...]:
    """Read ``"+a,-b"`` or a list of the same."""
    given = value.split(",") if isinstance(value, str) else value
    parts = tuple(str(part).strip() for part in given) if isinstance(given, Iterable) else ()
    if not parts or any(len(part) < 2 or part[0] not in "+-" for part in parts):
        raise ValueError("a list of features with + or - in front, such as +avx2,-fma")
    return parts


def _host(value: Any) -> Any:
    """Keep the target of the host side; it is resolved like any other."""
    return value


_OPTIONS: dict[str, dict[str, Callable[[Any], Any]]] = {
    "llvm": {
        "mcpu": _text,
        "mtriple": _text,
        "mattr": _attributes,
        "mfloat-abi": _text,
        "mabi": _text,
        "num-cores": _positive,
        "opt-level": _count,
        "vector-width": _positive,
        "device": _text,
        "model": _text,
    },
    "cuda": {
        "arch": _text,
        "host": _host,
        "num-cores": _positive,
        "max_num_threads": _positive,
        "max_shared_memory_per_block": _positive,
        "max_threads_per_block": _positive,
        "registers_per_block": _positive,
        "thread_warp_size": _positive,
        "l2_cache_size_bytes": _positive,
        "model": _text,
    },
}

# What TVM adds to a target by itself; derived again, never an instruction.
_DERIVED = frozenset({"keys", "tag", "libs", "from_device", "target_device_type"})


def parse(target: Any) -> Spec:
    """Read a target in any accepted spelling.

    Parameters
    ----------
    target : str, mapping or tvm.target.Target
        ``"llvm"``, ``"llvm -mcpu=cortex-a72"``, a preset, a tag of TVM such as
        ``"nvidia/geforce-rtx-4090"``, a dict of TVM's options, or a TVM target.

    Returns
    -------
    Spec
        Typed options.

    Raises
    ------
    TargetError
        When the kind, an option, a value or a name is unknown.
    """
    if isinstance(target, str):
        return _parse_string(target)
    if isinstance(target, TvmTarget):
        return _typed(_exported(target), None, f"tvm.target.Target({target.kind.name!s})")
    if isinstance(target, Mapping):
        return _parse_mapping(target)
    raise TargetError(
        f"a target is a string, a dict or a tvm.target.Target, "
        f"not {type(target).__name__}; {LISTING}"
    )


def _parse_string(text: str) -> Spec:
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise TargetError(f"the target {text!r} cannot be read: {error}") from error
    if not words:
        raise TargetError(f"the target is an empty string; {LISTING}")
    head, options = words[0], _read_options(text, words[1:])
    if head in _OPTIONS:
        return _typed({"kind": head, **options}, None, repr(text))
    if head in PRESETS:
        base = _parse_string(PRESETS[head].spec)
        given = _typed({"kind": base.kind, **options}, None, repr(text)).options
        unchanged = given.keys() <= {"num-cores"}
        return Spec(base.kind, base.options | given, head if unchanged else None, repr(text))
    if head in target_tags():
        tag = _exported(TvmTarget({"tag": head}))
        return _typed(tag | options, None, repr(text))
    raise TargetError(_unknown(head))


def _unknown(head: str) -> str:
    if find_cpu(head) is not None:
        return f"{head!r} is a CPU, not a target: write 'llvm -mcpu={head}'"
    if head.startswith("sm_"):
        return f"{head!r} is a GPU architecture, not a target: write 'cuda -arch={head}'"
    known = [*_OPTIONS, *PRESETS, *target_tags()]
    return f"unknown target {head!r}{near(head, known)}; {LISTING}"


def _read_options(text: str, words: list[str]) -> dict[str, str]:
    """Read ``-name=value`` and ``-name value``."""
    options: dict[str, str] = {}
    rest = iter(words)
    for word in rest:
        if not word.startswith("-"):
            raise TargetError(
                f"the target {text!r} holds {word!r}, which is not an option: "
                "options are spelt -name=value"
            )
        name, equals, value = word.lstrip("-").partition("=")
        if not equals:
            value = next(rest, "")
        if name in options:
            raise TargetError(f"the target {text!r} gives -{name} twice")
        options[name] = value
    return options


def _parse_mapping(target: Mapping[str, Any]) -> Spec:
    source = repr(dict(target))
    tag = target.get("tag", "")
    fields = {str(name): value for name, value in target.items() if not _is_derived(str(name))}
    if tag:
        if tag not in target_tags():
            raise TargetError(f"unknown tag {tag!r}{near(str(tag), target_tags())}; {LISTING}")
        fields = _exported(TvmTarget({"tag": str(tag)})) | fields
    if "kind" not in fields:
        raise TargetError(f'the target {source} has no "kind": it is "llvm" or "cuda"')
    return _typed(fields, None, source)


def _exported(target: Any) -> dict[str, Any]:
    """Return a TVM target as a dict, as far as a user could have written it."""
    fields = {
        str(name): str(value) if isinstance(value, str) else value
        for name, value in target.export().items()
        if not _is_derived(str(name))
    }
    if fields["kind"] == "llvm":
        fields.pop("host", None)
        # TVM fills in this machine's triple: Target("llvm") means this machine.
        if "mcpu" not in fields and normalize_triple(fields["mtriple"]) == host_triple():
            del fields["mtriple"]
    elif "host" in fields:
        fields["host"] = target.host
    return fields


def _is_derived(name: str) -> bool:
    return name in _DERIVED or name.startswith("feature.")


def _typed(fields: Mapping[str, Any], preset: str | None, source: str) -> Spec:
    """Check names and values of the options against the table."""
    kind = str(fields["kind"])
    if kind not in _OPTIONS:
        raise TargetError(
            f"the target {source} has the kind {kind!r}, and xnortvm makes code for "
            f"'llvm' (CPUs) and 'cuda' only{near(kind, _OPTIONS)}"
        )
    options: dict[str, Any] = {}
    for name, value in fields.items():
        if name == "kind":
            continue
        if name not in _OPTIONS[kind]:
            raise TargetError(
                f"the target {source} has the unknown option -{name}"
                f"{near(name, _OPTIONS[kind])}; {kind} takes "
                + ", ".join(f"-{option}" for option in _OPTIONS[kind])
            )
        try:
            options[name] = _OPTIONS[kind][name](value)
        except ValueError as error:
            raise TargetError(
                f"the option -{name} of the target {source} has the value {value!r}, "
                f"which is not {error}"
            ) from error
    if options.get("mcpu") in ("native", "host"):
        del options["mcpu"]
    return Spec(kind, options, preset, source)

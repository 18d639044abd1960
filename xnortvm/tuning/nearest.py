# SPDX-License-Identifier: Apache-2.0
"""Transfer: the record whose kernel is most like one that has no record of its own.

Kernels are alike when they have the same operator, the same types of outputs and the same
attributes but sizes; their distance is the sum of |log2| of the ratios of all sizes, strides
included. The nearest record decides, whatever it says: where it found the rule best, the rule is
left alone. Only tile and block are taken over: form and width stay those of the rule, which knows
the map.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import log2

from xnortvm.schedules.decisions import AnyDecisions
from xnortvm.tuning.records import Record
from xnortvm.tuning.task import Key

#: Records further away are not asked. A stage of ResNet-18 is 5 away from the next: half the map
#: in both directions, twice the channels (the input's stand in both shapes). That far a transfer
#: measured 0.5 % faster in the median and 1.1 % slower once; nearer ones gained (docs/tuning.md).
FARTHEST = 4.0

#: Candidates of a search that near records may name.
MOST_TRIED = 3

#: Attributes that are sizes: those that count in a distance, and those that follow from others.
_SIZES, _FOLLOW = ("strides",), ("channels", "padding")


def distance(one: Key, other: Key) -> float | None:
    """Return how far apart the sizes of two kernels are; None when they are not alike.

    Examples
    --------
    >>> near = Key("dense", ((1, 512), (512, 1000)), "", "add -> float32")
    >>> distance(near, Key("dense", ((1, 512), (512, 250)), "", "-> float32"))
    2.0
    """
    if (one.op, _outputs(one)) != (other.op, _outputs(other)):
        return None
    if [len(shape) for shape in one.shapes] != [len(shape) for shape in other.shapes]:
        return None
    ours, theirs = _attributes(one), _attributes(other)
    if {**ours, **dict.fromkeys(_SIZES)} != {**theirs, **dict.fromkeys(_SIZES)}:
        return None
    pairs = [*zip(_sizes(one, ours), _sizes(other, theirs), strict=True)]
    return sum(abs(log2(a / b)) for a, b in pairs)


def _outputs(key: Key) -> str:
    return key.epilogue.rpartition("->")[2].strip()


def _attributes(key: Key) -> dict[str, str]:
    found = dict(item.partition("=")[::2] for item in key.attributes.split())
    return {name: value for name, value in found.items() if name not in _FOLLOW}


def _sizes(key: Key, attributes: dict[str, str]) -> list[int]:
    numbers = [int(n) for name in _SIZES for n in attributes.get(name, "").split(",") if n]
    return [size for shape in key.shapes for size in shape] + numbers


def neighbours(key: Key, records: Iterable[Record]) -> list[Record]:
    """Return the records of kernels alike and not too far away, the nearest first.

    Parameters
    ----------
    records : iterable of Record
        Of kind "best"; of equally near ones the largest gain comes first.
    """
    found = [(distance(key, each.key), each) for each in records]
    near = [(far, each) for far, each in found if far is not None and far <= FARTHEST]
    near.sort(key=lambda item: (item[0], -item[1].gain))
    return [each for _, each in near]


def worth_trying(legal: Sequence[AnyDecisions], near: Iterable[Record]) -> list[AnyDecisions]:
    """Return the members of a space, the rule's first, that near records recommend."""
    rule, found = legal[0], dict[AnyDecisions, None]()
    for record in near:
        theirs = record.decisions.beside(rule)
        if record.gain > 1.0 and theirs in legal:
            found[theirs] = None
    return list(found)[:MOST_TRIED]

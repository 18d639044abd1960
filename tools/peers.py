# SPDX-License-Identifier: Apache-2.0
"""Other engines that run the same model, for comparison: one row of `PEERS` each.

A peer gets the model that was compiled, never another export of it, runs in a process of its own,
and its output is compared before it is timed.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from xnortvm.errors import ModelError, VerificationError, near

Outputs = list[np.ndarray[Any, Any]]

# Relative to the largest output. Sums of floats in another order differ by 1e-6; where such a
# difference meets a sign, one bit of a later layer flips and the output moves by more than that.
_SAME = 1e-4
_FLIPPED = 0.1
# Among many samples a few may have their best class changed by a flip; an engine that is wrong is
# wrong on all of them.
_MOST, _WORST = 0.75, 0.5
# An int8 engine rounds what the signs read, so bits flip and flips spread; with random weights the
# outputs have little left in common, but more than chance (0.03 for 1000 outputs).
_ALIKE = 0.1

#: Environment variable with interpreters of peers, as ``--peer-python`` takes them.
PYTHON_VARIABLE = "XNORTVM_PEER_PYTHON"


class Peer(NamedTuple):
    """One engine.

    Attributes
    ----------
    engine : str
        Module of `xnortvm.tools.engines`.
    form : str
        What it reads, a key of `xnortvm.tools.peer_inputs.FORMS`.
    help : str
        What is timed.
    exact : bool
        Whether it computes what our model computes, up to rounding.
    """

    engine: str
    form: str
    help: str
    exact: bool = True


PEERS: dict[str, Peer] = {
    "torch": Peer("torch_eager", "torch", "PyTorch eager, float32"),
    "onnxruntime": Peer("onnxruntime_fp32", "onnx", "ONNX Runtime, float32"),
    "onnxruntime-int8": Peer(
        "onnxruntime_int8", "onnx", "ONNX Runtime after static quantisation to int8", exact=False
    ),
    "openvino": Peer(
        "openvino_binary", "network", "OpenVINO's binary convolutions, graph made from our network"
    ),
    "openvino-fp32": Peer("openvino_fp32", "onnx", "OpenVINO, float32"),
    "larq": Peer("larq_lce", "network", "Larq Compute Engine, graph made from our network"),
    "tvm": Peer("tvm_default", "relax", "TVM's default pipeline, float32"),
}


#: Environment that keeps engines to the instruction set that our model was compiled for. ONNX
#: Runtime's own kernels know no such switch.
RESTRICTIONS: dict[str, dict[str, str]] = {
    isa: {"ONEDNN_MAX_CPU_ISA": onednn, "ATEN_CPU_CAPABILITY": aten}
    for isa, onednn, aten in (
        ("avx512bw", "AVX512_CORE", "avx512"),
        ("avx2", "AVX2", "avx2"),
        ("sse4", "SSE41", "default"),
        ("sse2", "SSE41", "default"),
    )
}
_UNRESTRICTED = ("onnxruntime", "onnxruntime-int8")


def restriction_note(name: str, isa: str) -> str:
    """Return what a reader has to know of a peer that uses more than an instruction set."""
    if name in _UNRESTRICTED and isa in RESTRICTIONS:
        return f", with all that this CPU has (it cannot be kept to {isa})"
    return ""


class Agreement(NamedTuple):
    """How far a peer's output is from the compiled model's.

    Attributes
    ----------
    error : float
        Largest difference relative to the largest output.
    top1 : bool
        Whether the largest output is the same everywhere.
    cosine : float
        Of the angle between all outputs.
    """

    error: float
    top1: bool
    cosine: float

    def to_json(self) -> dict[str, Any]:
        """Return plain data."""
        return self._asdict()


def chosen(text: str) -> list[str]:
    """Return the peers that ``--against`` names; "all" is every row of `PEERS`.

    Raises
    ------
    ModelError
        For an unknown name.
    """
    names = [name.strip() for name in text.split(",") if name.strip()]
    if names == ["all"]:
        return list(PEERS)
    for name in names:
        if name not in PEERS:
            raise ModelError(
                f"--against has the unknown engine {name!r}{near(name, PEERS)}; "
                f"known are {', '.join(PEERS)}, or all"
            )
    return list(dict.fromkeys(names))


def interpreters(
    options: Sequence[str], environment: Mapping[str, str] = os.environ
) -> dict[str, str]:
    """Return the Python of each peer that has one of its own.

    Parameters
    ----------
    options : sequence of str
        ``PEER=PATH``; they go before the environment variable `PYTHON_VARIABLE`, which holds the
        same, separated by commas.

    Raises
    ------
    ModelError
        When one is not of that form or names no peer.
    """
    given = [part for part in environment.get(PYTHON_VARIABLE, "").split(",") if part]
    found = {}
    for option in [*given, *options]:
        name, equals, path = option.partition("=")
        if not equals or not path or name not in PEERS:
            raise ModelError(
                f"{option!r} does not name the Python of a peer; write PEER=PATH with a PEER of "
                f"{', '.join(PEERS)}"
            )
        found[name] = path
    return found


def compare(mine: Outputs, theirs: Outputs, peer: str, *, exact: bool = True) -> Agreement:
    """Compare outputs; a peer that computes something else is not timed.

    Parameters
    ----------
    mine, theirs : list of ndarray
        Outputs of the compiled model and of the peer.
    peer : str
        Its name.
    exact : bool
        With False the outputs need not be equal up to rounding; the cosine of the angle between
        them must be at least 0.1.

    Raises
    ------
    VerificationError
        When the outputs are not of the same model.
    """
    if [each.shape for each in mine] != [each.shape for each in theirs]:
        raise VerificationError(
            f"the peer {peer} gives outputs of shapes {[each.shape for each in theirs]} where the "
            f"compiled model gives {[each.shape for each in mine]}; it cannot be compared"
        )
    samples = [_sample(*each) for each in _samples(mine, theirs)]
    error = float(np.max([each for each, _ in samples]))  # a NaN stays one
    top1 = all(same for _, same in samples)
    cosine = _cosine(mine, theirs)
    if not exact and not cosine >= _ALIKE:
        raise VerificationError(
            f"the peer {peer} and the compiled model have nothing in common: the cosine between "
            f"their outputs is {cosine:.2f}, and {_ALIKE} is the least for a quantised engine; "
            "give it inputs that are more like real ones"
        )
    good = sum(e <= _SAME or (e <= _FLIPPED and same) for e, same in samples)
    if exact and not (good == len(samples) or (good >= _MOST * len(samples) and error <= _WORST)):
        raise VerificationError(
            f"the peer {peer} and the compiled model disagree by {error:.1e} of the largest "
            f"output{'' if top1 else ' and on the best class'}; compile the model with verify=True "
            "to see which of the two is wrong"
        )
    return Agreement(error, top1, cosine)


def _samples(mine: Outputs, theirs: Outputs) -> list[tuple[Outputs, Outputs]]:
    """Split outputs along their first axis where it is the same batch in all of them."""
    batches = {each.shape[0] if each.ndim > 1 else 1 for each in mine}
    if len(batches) != 1 or 1 in batches or 0 in batches:
        return [(mine, theirs)]
    return [
        ([each[at : at + 1] for each in mine], [each[at : at + 1] for each in theirs])
        for at in range(batches.pop())
    ]


def _sample(mine: Outputs, theirs: Outputs) -> tuple[float, bool]:
    """Return the largest relative difference, and whether the best classes are the same."""
    error, top1 = 0.0, True
    for ours, other in zip(mine, theirs, strict=True):
        largest = np.abs(other).max(initial=0.0) or 1.0
        error = float(np.maximum(error, np.abs(ours - other).max(initial=0.0) / largest))
        if ours.ndim and ours.shape[-1]:
            top1 = top1 and bool((ours.argmax(-1) == other.argmax(-1)).all())
    return error, top1


def _cosine(mine: Outputs, theirs: Outputs) -> float:
    a, b = (
        np.concatenate([np.ravel(x).astype(np.float64) for x in each]) for each in (mine, theirs)
    )
    scale = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float(a @ b) / scale if scale else float(not a.any() and not b.any())

# SPDX-License-Identifier: Apache-2.0
"""ONNX Runtime on the model after its static quantisation: 8-bit integers instead of bits.

QDQ form, activations uint8, weights int8 per channel, calibrated on the example inputs. The signs
stay in float in front of the convolutions; the arithmetic is that of VNNI where the CPU has it.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .job import Engine, Job
from .onnxruntime_fp32 import session_engine

_QUANTISED = ["Conv", "MatMul", "Gemm", "Add", "Relu", "MaxPool"]


def _quantise(model: Path, folder: Path, job: Job) -> Path:
    from onnxruntime.quantization import (
        CalibrationDataReader,
        QuantFormat,
        QuantType,
        quantize_static,
    )
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Examples(CalibrationDataReader):
        def __init__(self, names: list[str]) -> None:
            self.feeds: Iterator[dict[str, Any]] = iter([dict(zip(names, job.inputs, strict=True))])

        def get_next(self) -> dict[str, Any] | None:
            return next(self.feeds, None)

    import onnx

    names = [each.name for each in onnx.load(str(model), load_external_data=False).graph.input]
    prepared, quantised = folder / "prepared.onnx", folder / "int8.onnx"
    logging.getLogger().setLevel(logging.ERROR)  # it advises to do what is being done
    quant_pre_process(str(model), str(prepared), skip_symbolic_shape=True)
    quantize_static(
        str(prepared),
        str(quantised),
        Examples(names),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        op_types_to_quantize=_QUANTISED,
    )
    return quantised


def prepare(job: Job) -> Engine:
    """Quantise the model and open a session."""
    import onnxruntime

    path = _quantise(job.folder / "model.onnx", job.folder, job)
    return session_engine(path, job, f"ONNX Runtime {onnxruntime.__version__}, int8 (QDQ)")

# SPDX-License-Identifier: Apache-2.0
"""Operators around binary layers mean in Relax what they mean in PyTorch."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from tests.frontend.nets import WAYS, Function, Named, outputs, same
from xnortvm.errors import ModelError, UnsupportedOperatorError
from xnortvm.frontend import import_model

torch.manual_seed(0)
WEIGHT = torch.randn(6, 4, 3, 3)
POSITIVE, SIGNED = torch.rand(4) + 0.5, torch.randn(4)
GRID = torch.rand(2, 3, 5, 2) * 2.6 - 1.3


def assigned(x):
    y = x.clone()
    y[:, 1:3] = 0.5
    return y


def assigned_by_masks(x):
    y = torch.zeros_like(x)
    y[x >= 0] = 1
    y[x < 0] = -1
    return y


def weights(*index):
    return WEIGHT[index]


ROWS = {
    "grouped strided dilated conv": lambda x: functional.conv2d(
        x, WEIGHT[:, :2], stride=2, dilation=2, padding=(2, 1), groups=2
    ),
    "same padding": lambda x: functional.conv2d(x, WEIGHT, SIGNED.repeat(2)[:6], padding="same"),
    "transposed conv": lambda x: functional.conv_transpose2d(
        x, WEIGHT.transpose(0, 1), stride=2, padding=1, output_padding=1
    ),
    "conv1d": lambda x: functional.conv1d(x.flatten(2), WEIGHT[:, :, 0], stride=2, padding=1),
    "max pool ceil": lambda x: functional.max_pool2d(x, 3, 2, 1, ceil_mode=True),
    "average pool ceil": lambda x: functional.avg_pool2d(
        x, 2, 2, ceil_mode=True, count_include_pad=False
    ),
    "average pool padded": lambda x: functional.avg_pool2d(x, 3, 2, 1, ceil_mode=True),
    "adaptive average pool": lambda x: functional.adaptive_avg_pool2d(x, 1),
    "prelu": lambda x: functional.prelu(x, SIGNED),
    "leaky relu": lambda x: functional.leaky_relu(x, 0.1),
    "hardtanh": lambda x: functional.hardtanh(x, -1.3, 1.2),
    "selu": functional.selu,
    "celu": lambda x: functional.celu(x, 0.7),
    "softplus": functional.softplus,
    "clamp by tensors": lambda x: torch.clamp(x, -POSITIVE[0], POSITIVE[1]),
    "round half to even": lambda x: (x.sign() * 0.5).round() + (x.sign() * 2.5).round(),
    "add alpha": lambda x: torch.add(x, x * x, alpha=2),
    "sub alpha": lambda x: torch.sub(x, POSITIVE.view(4, 1, 1), alpha=-0.5),
    "mask times number": lambda x: (x > 0) * 0.5,
    "mask times tensor": lambda x: (x > 0) * x,
    "integers times number": lambda x: (x * 10).int() * 0.5,
    "integer division": lambda x: (x * 10).int() / 4,
    "mask arithmetic": lambda x: (((x > 0) | (x < -1)) & (x < 1)).float(),
    "batch norm": lambda x: functional.batch_norm(x, SIGNED, POSITIVE, POSITIVE, SIGNED, eps=1e-4),
    "normalise": lambda x: functional.normalize(x, dim=1),
    "standardise": lambda x: (x - x.mean((1, 2, 3), True)) / x.std((1, 2, 3), keepdim=True),
    "input map K": lambda x: functional.conv2d(
        x.abs().mean(1, keepdim=True), torch.full((1, 1, 3, 3), 1 / 9), padding=1
    ),
    "largest": lambda x: x.amax((2, 3)),
    "maxout": lambda x: torch.max(x * SIGNED.view(4, 1, 1), torch.min(x, x * x)),
    "pad by -1": lambda x: functional.pad(x, (1, 2, 0, 1), value=-1),
    "pad channels": lambda x: functional.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 2, 2)),
    "crop by negative padding": lambda x: functional.pad(x, (-1, 0, 0, -1)),
    "channel shuffle": lambda x: x.view(2, 2, 2, 9, 7).transpose(1, 2).reshape(2, 4, 9, 7) * 1.5,
    "pixel shuffle": lambda x: functional.pixel_shuffle(x, 2),
    "swap halves": lambda x: torch.cat(x.chunk(2, 1)[::-1], 1),
    "slice": lambda x: x[:, -2:, 1:-1, ::2],
    "select": lambda x: x[:, 1],
    "permute channels": lambda x: x[:, [2, 0, -1]],
    "repeat channels": lambda x: x.repeat(1, 2, 1, 1),
    "upsample": lambda x: functional.interpolate(x, scale_factor=2),
    "upsample by a fraction": lambda x: functional.interpolate(x, size=(11, 13)),
    "linear after flatten": lambda x: functional.linear(x.flatten(1), torch.full((3, 252), 0.01)),
    "linear on the last axis": lambda x: functional.linear(x, WEIGHT[0, 0].repeat(1, 3)[:, :7]),
    "addmm": lambda x: torch.addmm(
        SIGNED[:3], x.flatten(1), torch.full((252, 3), 0.01), beta=2, alpha=0.5
    ),
    "squeeze and excite": lambda x: (
        x * torch.sigmoid(functional.linear(x.mean((2, 3)), WEIGHT[:4, :, 0, 0]))[:, :, None, None]
    ),
    "in place": lambda x: (x + 0).mul_(2).add_(1).relu_(),
    "slice assignment": assigned,
    "mask assignment": assigned_by_masks,
    "item": lambda x: x * POSITIVE.mean().item(),
}

TORCH_ONLY = {
    "average pool by another divisor": lambda x: functional.avg_pool2d(x, 3, divisor_override=2),
    "uneven adaptive average pool": lambda x: functional.adaptive_avg_pool2d(x, (5, 2)),
    "double precision": lambda x: x.double() @ WEIGHT[0, 0, :1].double().repeat(7, 1),
    "adaptive max pool": lambda x: functional.adaptive_max_pool2d(x, (3, 1)),
    "smallest along an axis": lambda x: x.min(1).values,
    "largest along an axis": lambda x: x.max(1)[0],
    "product": lambda x: x.prod(1),
    "variance and mean": lambda x: torch.cat(torch.var_mean(x, (2, 3), unbiased=False)),
    "unfold": lambda x: functional.unfold(x, 3, padding=1),
    "group norm without affine": lambda x: functional.group_norm(x, 2),
    "group norm with a scale only": lambda x: functional.group_norm(x, 2, SIGNED),
    "instance norm without affine": functional.instance_norm,
    "layer norm without affine": lambda x: functional.layer_norm(x, x.shape[2:]),
    "batch norm without affine": lambda x: functional.batch_norm(x, SIGNED, POSITIVE),
    **{
        f"grid sample {method} {padding} {align}": (
            lambda x, m=method, p=padding, a=align: functional.grid_sample(x, GRID, m, p, a)
        )
        for method in ("bilinear", "nearest", "bicubic")
        for padding, align in (("zeros", False), ("border", True), ("reflection", False))
    },
}
"""What the ONNX exporters refuse or write wrongly."""

X = torch.randn(2, 4, 9, 7)


def wrong_rows(way, rows, folder):
    """Import all rows at once; return those that differ from eager PyTorch."""
    module = Named({name: Function(row) for name, row in rows.items()})
    found = outputs(WAYS[way](module, X, folder), X)
    with torch.no_grad():
        expected = module(X)
    return [row for row, y in zip(expected, found, strict=True) if not same(y, expected[row])]


@pytest.mark.parametrize("way", WAYS)
def test_operators_compute_what_eager_computes(way, tmp_path):
    assert wrong_rows(way, ROWS, tmp_path) == []


def test_operators_without_onnx_export_compute_what_eager_computes(tmp_path):
    assert wrong_rows("torch", TORCH_ONLY, tmp_path) == []


REFUSED = {
    "data-dependent size": (
        lambda x: x[x > 0].sum(),
        UnsupportedOperatorError,
        "size depends on values",
    ),
    "random numbers": (
        lambda x: x + torch.rand_like(x),
        ModelError,
        "draws random numbers",
    ),
    "operator that TVM lacks": (
        lambda x: torch.hypot(x, x),
        UnsupportedOperatorError,
        r"hypot\.default .*\.py:\d+: .*no rule for it; rewrite the layer",
    ),
    "uneven adaptive max pool": (
        lambda x: functional.adaptive_max_pool2d(x, 2),
        UnsupportedOperatorError,
        "adaptive_max_pool2d",
    ),
    "another divisor in ceil mode": (
        lambda x: functional.avg_pool2d(x, 2, ceil_mode=True, divisor_override=3),
        UnsupportedOperatorError,
        "divisor_override together with ceil_mode",
    ),
}


@pytest.mark.parametrize("row", REFUSED)
def test_operator_is_refused_with_its_place(row):
    function, error, message = REFUSED[row]
    with pytest.raises(error, match=message):
        import_model(Function(function), torch.randn(2, 4, 9, 7))

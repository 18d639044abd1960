# SPDX-License-Identifier: Apache-2.0
"""XNOR-Net++ layers and networks in PyTorch: what xnortvm compiles.

Layers hold latent real weights and straight-through estimators, so that they train; in an exported
graph only the operators of inference remain. Needs torch and nothing else; saving and loading need
safetensors too. `xnortvm.models.training` trains.
"""

from __future__ import annotations

from .alexnet import AlexNet
from .blocks import BinaryNetwork
from .convert import binarize
from .layers import BinaryConv1d, BinaryConv2d, BinaryLayer, BinaryLinear, binary_layers, freeze_
from .lenet import LeNet
from .quicknet import QuickNet
from .random_init import random_input, randomize_
from .real import real_twin
from .registry import MODELS, build
from .resnet import ResNet18
from .saved import CHECKPOINTS, load, save
from .scale import ALIASES, CASES, SCALES, AnalyticScale, LearnedScale, Scale, make_scale
from .scale_init import SCALE_INITS, init_scales_
from .ste import ESTIMATORS, SIGN_ZERO, sign
from .window import Window

__all__ = [
    "ALIASES",
    "CASES",
    "CHECKPOINTS",
    "ESTIMATORS",
    "MODELS",
    "SCALES",
    "SCALE_INITS",
    "SIGN_ZERO",
    "AlexNet",
    "AnalyticScale",
    "BinaryConv1d",
    "BinaryConv2d",
    "BinaryLayer",
    "BinaryLinear",
    "BinaryNetwork",
    "LeNet",
    "LearnedScale",
    "QuickNet",
    "ResNet18",
    "Scale",
    "Window",
    "binarize",
    "binary_layers",
    "build",
    "freeze_",
    "init_scales_",
    "load",
    "make_scale",
    "random_input",
    "randomize_",
    "real_twin",
    "save",
    "sign",
]

# SPDX-License-Identifier: Apache-2.0
"""Training of binary networks: data, recipes, the loop. ``xnortvm train`` is its command line.

Examples
--------
>>> from xnortvm.models import build, init_scales_
>>> data = load_data("digits")
>>> model = build("lenet", input_size=8, randomize=False)
>>> recipe = make_recipe("short", epochs=1)
>>> rows = train(init_scales_(model, recipe.scale_init), data, recipe, options=Options(quiet=True))
>>> rows[-1].test_accuracy > 0.5
True
"""

from __future__ import annotations

from .data import DataSet, MemorySplit, Split
from .group import Group, join
from .loop import Options, check_fit, evaluate, train
from .progress import EpochRow
from .recipe import RECIPES, Recipe, make_recipe
from .sources import SOURCES, load_data

__all__ = [
    "RECIPES",
    "SOURCES",
    "DataSet",
    "EpochRow",
    "Group",
    "MemorySplit",
    "Options",
    "Recipe",
    "Split",
    "check_fit",
    "evaluate",
    "join",
    "load_data",
    "make_recipe",
    "train",
]

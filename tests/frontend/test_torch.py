# SPDX-License-Identifier: Apache-2.0
"""PyTorch models arrive complete and compute what eager PyTorch computes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from tests.frontend.nets import (
    Function,
    assert_same,
    assert_same_graph,
    export,
    net,
    operators,
    outputs,
)
from xnortvm.frontend import import_model

SPELLINGS = {
    "non-strict": lambda module, x: export(module, x, strict=False),
    "strict": lambda module, x: export(module, x, strict=True),
    "decomposed": lambda module, x: export(module, x, strict=False).run_decompositions(),
    "strict decomposed": lambda module, x: export(module, x, strict=True).run_decompositions(),
}


@pytest.fixture(scope="module")
def from_module(model):
    module, x, _ = model
    return import_model(module, (x,))


def test_module_computes_what_eager_computes(model, from_module):
    _, x, expected = model
    assert from_module.kind == "torch"
    assert_same(outputs(from_module, x)[0], expected)


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_exported_program_gives_the_graph_of_the_module(model, from_module, spelling):
    module, x, _ = model
    imported = import_model(SPELLINGS[spelling](module, x))
    assert imported.kind == "exported"
    assert_same_graph(imported, from_module)


def test_pt2_file_gives_the_graph_of_the_module(model, from_module, tmp_path):
    module, x, _ = model
    torch.export.save(export(module, x), tmp_path / "net.pt2")
    assert_same_graph(import_model(tmp_path / "net.pt2"), from_module)


def test_users_program_is_not_changed(model):
    module, x, _ = model
    program = export(module, x, strict=False).run_decompositions()
    before = str(program)
    import_model(program)
    assert str(program) == before


def test_inputs_are_the_only_parameters_and_keep_their_names(from_module):
    assert from_module.input_names == ("x",)
    assert [str(param.name) for param in from_module.mod["main"].params] == ["x"]
    assert from_module.output_names == ("output",)
    assert from_module.structure == "output"


def test_one_dataflow_block(from_module):
    assert len(from_module.mod["main"].body.blocks) == 1


def test_training_module_is_exported_in_eval_mode_and_left_as_it_was(model, from_module):
    module, x, _ = model
    module.train()
    module.layer1[0].bn.eval()
    before = {name: part.training for name, part in module.named_modules()}
    state = {name: value.clone() for name, value in module.state_dict().items()}
    try:
        assert_same_graph(import_model(module, x), from_module)
        assert {name: part.training for name, part in module.named_modules()} == before
    finally:
        module.eval()
    for name, value in module.state_dict().items():
        assert torch.equal(value, state[name])


def test_constants_do_not_follow_the_module_when_it_trains_on():
    linear = nn.Linear(3, 2)
    imported = import_model(linear, torch.ones(1, 3))
    with torch.no_grad():
        expected = linear(torch.ones(1, 3))
        linear.weight.zero_()
    assert_same(outputs(imported, torch.ones(1, 3))[0], expected)


def test_numpy_and_list_example_inputs_do_as_well():
    x = np.ones((1, 4), "float32")
    for inputs in (x, [x]):
        assert import_model(nn.Linear(4, 2), inputs).input_names == ("input",)


class Several(nn.Module):
    """Two inputs; a dictionary of a tensor, a nested list, None and a number."""

    def forward(self, left, right):
        total = left + right
        return {"sum": total, "rest": [left * 2, (total, None)], "count": 3}


def test_several_inputs_and_nested_outputs_keep_their_structure():
    left, right = torch.randn(2, 3), torch.randn(3)
    imported = import_model(Several(), (left, right))
    assert imported.input_names == ("left", "right")
    assert imported.output_names == ("sum", "rest.0", "rest.1.0")
    assert imported.structure == {"sum": "sum", "rest": ["rest.0", ("rest.1.0", None)], "count": 3}
    for found, expected in zip(
        outputs(imported, left, right), (left + right, left * 2, left + right), strict=True
    ):
        assert_same(found, expected)


def test_tuple_outputs_are_numbered():
    imported = import_model(Function(lambda x: (x + 1, x * 2)), torch.ones(2))
    assert imported.structure == ("output0", "output1") == imported.output_names


def test_output_that_does_not_depend_on_the_input_is_a_constant():
    imported = import_model(Function(lambda x: (x + 1, torch.arange(3.0))), torch.ones(2))
    assert_same(outputs(imported, torch.ones(2))[1], torch.arange(3.0))


def test_symbolic_batch_runs_at_every_batch():
    module, x = net()
    program = export(module, x, dynamic_shapes=({0: torch.export.Dim("batch", min=1, max=64)},))
    imported = import_model(program)
    for batch in (1, 5):
        y = torch.randn(batch, *x.shape[1:])
        with torch.no_grad():
            assert_same(outputs(imported, y)[0], module(y))


def test_in_place_updates_do_not_change_values_that_are_read_later():
    def forward(x):
        y = x.relu()
        z = y * 2
        return y.add_(1) + z

    x = torch.randn(3, 4)
    expected = forward(x)
    assert_same(outputs(import_model(Function(forward), x), x)[0], expected)


class Counting(nn.Module):
    """Counts its calls in a buffer that the result does not depend on."""

    def __init__(self):
        super().__init__()
        self.register_buffer("calls", torch.zeros(1))

    def forward(self, x):
        self.calls += 1
        return x * 2


def test_buffer_updates_that_no_result_needs_are_left_out():
    module = Counting()
    imported = import_model(module, torch.ones(2))
    assert operators(imported) == ["multiply"]
    assert module.calls.item() == 0


def test_trivial_operators_are_gone():
    def forward(x):
        x = nn.functional.dropout(x.clone().detach().contiguous(), training=False)
        x = x.to(torch.float32).view(2, 3).reshape(2, 3).expand(2, 3).permute(0, 1)
        return x.div(1).mul(1).add(0).sign()

    assert operators(import_model(Function(forward), torch.ones(2, 3))) == ["sign"]

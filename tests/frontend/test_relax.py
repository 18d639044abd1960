# SPDX-License-Identifier: Apache-2.0
"""Relax modules of users: parameters bound, weight-side computation folded."""

from __future__ import annotations

import numpy as np
import pytest
from tvm.relax.frontend.torch import from_exported_program

from tests.frontend.nets import assert_same, assert_same_graph, export, net, operators, outputs
from xnortvm._tvm import IRModule, relax, relax_transform, tirx
from xnortvm.errors import ModelError, UnsupportedOperatorError
from xnortvm.frontend import import_model

op = relax.op


def module_of(shape, body, dataflow=True, name="main"):
    """A module with one function of x."""
    builder = relax.BlockBuilder()
    x = relax.Var("x", relax.TensorType(shape, "float32"))
    with builder.function(name, [x]):
        if dataflow:
            with builder.dataflow():
                output = builder.emit_output(body(builder, x))
        else:
            output = builder.emit(body(builder, x))
        builder.emit_func_output(output)
    return builder.get()


@pytest.fixture(scope="module")
def model():
    module, x = net()
    return export(module, x), x, module


def test_module_from_tvms_importer_computes_what_eager_computes(model):
    program, x, module = model
    imported = import_model(from_exported_program(program))
    assert imported.kind == "relax"
    assert imported.input_names == ("x",)
    assert_same(outputs(imported, x)[0], module(x).detach())


def test_parameters_in_the_function_attribute_are_bound(model):
    program, _, _ = model
    kept = from_exported_program(program, keep_params_as_input=True)
    assert_same_graph(import_model(kept), import_model(from_exported_program(program)))


def test_signs_of_constant_weights_are_folded():
    weight = np.random.default_rng(0).standard_normal((8, 5)).astype("float32")

    def body(builder, x):
        signs = builder.emit(op.sign(op.permute_dims(relax.const(weight))))
        return op.matmul(op.sign(x), signs)

    imported = import_model(module_of((2, 5), body))
    assert operators(imported) == ["sign", "matmul"]
    x = np.random.default_rng(1).standard_normal((2, 5)).astype("float32")
    assert_same(outputs(imported, x)[0], np.sign(x) @ np.sign(weight).T)


def test_bindings_outside_of_dataflow_blocks_are_taken_in():
    imported = import_model(module_of((2, 5), lambda _, x: op.sign(op.abs(x)), dataflow=False))
    assert operators(imported) == ["abs", "sign"]
    assert len(imported.mod["main"].body.blocks) == 1


def test_symbolic_batch_is_kept():
    n = tirx.Var("n", "int64")
    imported = import_model(module_of((n, 5), lambda _, x: op.sign(x)))
    assert_same(outputs(imported, np.ones((3, 5), "float32"))[0], np.ones((3, 5), "float32"))


def test_several_outputs_are_named():
    imported = import_model(
        module_of((2,), lambda builder, x: relax.Tuple([builder.emit(op.abs(x)), x]))
    )
    assert imported.output_names == imported.structure == ("output0", "output1")


def test_users_module_is_not_changed(model):
    mod = from_exported_program(model[0])
    before = mod.script()
    import_model(mod)
    assert mod.script() == before


def test_dynamic_width_is_refused_by_name_and_axis():
    w = tirx.Var("w", "int64")
    with pytest.raises(ModelError, match=r"input 'x' has a dynamic dimension 'w' at axis 1"):
        import_model(module_of((2, w), lambda _, x: op.sign(x)))


def test_module_without_main_is_refused():
    with pytest.raises(ModelError, match=r"no function 'main' \(it has forward\)"):
        import_model(module_of((2,), lambda _, x: op.sign(x), name="forward"))


def test_empty_module_is_refused():
    with pytest.raises(ModelError, match="it has none"):
        import_model(IRModule())


def test_lowered_main_is_refused():
    lowered = relax_transform.LegalizeOps()(module_of((2,), lambda _, x: op.sign(x)))
    kernel = next(value for name, value in lowered.functions.items() if name.name_hint != "main")
    with pytest.raises(ModelError, match=r"'main' of the module is a PrimFunc"):
        import_model(IRModule({"main": kernel}))


def test_input_without_a_shape_is_refused():
    builder = relax.BlockBuilder()
    x = relax.Var("x", relax.TensorType(dtype="float32", ndim=2))
    with builder.function("main", [x]):
        builder.emit_func_output(builder.emit(op.sign(x)))
    with pytest.raises(ModelError, match=r"x of main is a .*whose shape is known"):
        import_model(builder.get())


def test_branch_on_a_computed_value_is_refused():
    builder = relax.BlockBuilder()
    x = relax.Var("x", relax.TensorType((), "float32"))
    with builder.function("main", [x]):
        condition = builder.emit(op.greater(x, relax.const(0.0, "float32")))
        branch = relax.If(condition, relax.SeqExpr([], op.abs(x)), relax.SeqExpr([], x))
        builder.emit_func_output(builder.emit(branch))
    with pytest.raises(UnsupportedOperatorError, match="has one path"):
        import_model(builder.get())


def test_arithmetic_on_booleans_is_refused():
    def body(builder, x):
        above = builder.emit(op.greater_equal(x, relax.const(0.0)), "above")
        return op.astype(builder.emit(op.multiply(above, above), "both"), "float32")

    with pytest.raises(ModelError, match=r"computes multiply of booleans in both.*astype"):
        import_model(module_of((2, 5), body))

# SPDX-License-Identifier: Apache-2.0
"""Lower a legalised, fused and scheduled module to TVM's virtual machine and to machine code.

Nothing is optimised here. TVM's default build pipeline would legalise again and look for sort,
scan and sampling libraries; only its lowering passes are used. Bytecode is chosen over a compiled
``main``: on one AVX2 core a chain of 110 kernels costs 0.59 µs each in bytecode and 0.41 µs
compiled (kernel included), 7 µs in a network of 40 kernels, and LLVM then needs 1.1 s more.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from xnortvm._tvm import IRModule, ir_transform, relax, relax_transform
from xnortvm.errors import CompileError, XnortvmError
from xnortvm.runtime.interface import Interface
from xnortvm.runtime.link import link, objects
from xnortvm.runtime.signature import interface_of, may_alias

if TYPE_CHECKING:
    from xnortvm.frontend.imported import Batch
    from xnortvm.target import Target


_USE_GRAPHS = "relax.backend.use_cuda_graph"


@dataclass(frozen=True)
class Built:
    """Machine code and what is known about it.

    Attributes
    ----------
    executable : tvm.relax.VMExecutable
        Runs in this process without a linker when the target is this host.
    interface : Interface
        Inputs, outputs and kernels.
    target : Target
        What it was built for.
    copies_outputs : bool
        True when an output may be an input, a constant or a view of one: outputs are then copied
        before they are handed out.
    """

    executable: Any = field(repr=False)
    interface: Interface
    target: Target
    copies_outputs: bool

    @cached_property
    def library(self) -> bytes:
        """The shared library; equal modules and targets give equal bytes.

        Raises
        ------
        MissingDependencyError
            When there is no C compiler to link with.
        """
        return link(self.executable, self.target.link)

    @cached_property
    def objects(self) -> dict[str, bytes]:
        """The object files that the library is linked from, for linking into a program."""
        return objects(self.executable)


def lowering_passes(*, cuda_graph: bool = False) -> list[Any]:
    """Return the Relax passes between our pipeline and the virtual machine, in order.

    Parameters
    ----------
    cuda_graph : bool
        Record the launches of the first call as CUDA graphs, which later calls replay.
    """
    return [
        # Reshapes become views instead of copies.
        relax_transform.RewriteDataflowReshape(),
        relax_transform.ToNonDataflow(),
        relax_transform.RemovePurityChecking(),
        # Kernels write into tensors that are allocated beside the call …
        relax_transform.CallTIRRewrite(),
        # … from storage that is planned once and shared by tensors that do not live together.
        relax_transform.StaticPlanBlockMemory(),
        *([relax_transform.RewriteCUDAGraph()] if cuda_graph else []),
        relax_transform.LowerAllocTensor(),
        relax_transform.KillAfterLastUse(),
        relax_transform.LowerRuntimeBuiltin(),
        relax_transform.ComputePrimValue(),
        relax_transform.VMShapeLower(),
        relax_transform.AttachGlobalSymbol(),
    ]


def build(
    mod: IRModule, target: Target, batch: Batch | None = None, *, cuda_graph: bool = False
) -> Built:
    """Build a module whose functions are all scheduled.

    Parameters
    ----------
    mod : IRModule
        Relax ``main`` that calls TIR functions with ``call_tir``; static shapes.
    target : Target
        Where the code will run.
    batch : Batch, optional
        Of a model for one sample that will be run for several.
    cuda_graph : bool
        See `lowering_passes`.

    Returns
    -------
    Built
        The executable and its interface; linking happens when ``library`` is read.

    Raises
    ------
    ModelError
        When an input or output has a dynamic shape or is no tensor.
    CompileError
        When TVM refuses a function.

    Examples
    --------
    >>> built = build(mod, target)  # doctest: +SKIP
    >>> len(built.library)  # doctest: +SKIP
    """
    interface = interface_of(mod, batch)
    try:
        copies_outputs = may_alias(relax_transform.RewriteDataflowReshape()(mod))
        with (
            device_compiler(target),
            target.tvm,
            ir_transform.PassContext(opt_level=3, config={_USE_GRAPHS: cuda_graph}),
        ):
            executable = relax.build(
                mod,
                target.tvm,
                relax_pipeline=ir_transform.Sequential(lowering_passes(cuda_graph=cuda_graph)),
                exec_mode="bytecode",
            )
    except XnortvmError:
        raise
    except Exception as error:
        last = str(error).strip().splitlines()[-1:] or [type(error).__name__]
        raise CompileError(
            f"TVM could not build the model for {target.name}: {last[0]}; "
            "compile again with dump_dir= and look at the last module in that folder"
        ) from error
    return Built(executable, interface, target, copies_outputs)


def device_compiler(target: Target) -> AbstractContextManager[Any]:
    """Return what makes device code of CUDA targets machine code, GPU or none; else nothing."""
    if target.kind != "cuda":
        return nullcontext()
    from xnortvm.runtime.cuda_compiler import compiling_for
    from xnortvm.runtime.cuda_driver import load_for_compiling

    load_for_compiling()
    return compiling_for(target.arch)

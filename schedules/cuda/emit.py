# SPDX-License-Identifier: Apache-2.0
"""Statements of hand-written CUDA kernels: a thin layer over TVM's IR builder.

A kernel is built by ordinary Python that calls these functions in order. Loops over registers are
left to the CUDA compiler to unroll (`unroll`): TVM's passes take long for what is unrolled already.
A condition may be True, which leaves no branch.

Shared memory that asynchronous or matrix instructions read is one dynamic buffer of 32-bit words
that the kernel lays out itself (`Shared`): TVM would merge several buffers without seeing those
reads, and would cut one down to the part that ordinary accesses touch. Where all accesses are
ordinary ones, arrays of fixed size do (`shared`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

from tvm.script.ir_builder import IRBuilder
from tvm.tirx.script import builder as T

from xnortvm._tvm import tirx

WARP = 32
FULL_WARP = 0xFFFFFFFF


def i32(value: Any) -> Any:
    """Return an int32 expression."""
    return tirx.const(value, "int32") if isinstance(value, int) else tirx.Cast("int32", value)


def u32(value: Any) -> Any:
    """Return a uint32 expression."""
    return tirx.const(value, "uint32") if isinstance(value, int) else tirx.Cast("uint32", value)


def let(name: str, value: Any) -> Any:
    """Bind a value to a variable; numbers stay numbers, so that they fold."""
    if isinstance(value, int | tirx.IntImm):
        return value
    return IRBuilder.name(name, T.bind(value))


def registers(name: str, count: int, dtype: str = "uint32") -> Any:
    """Return an array of registers; its indices must be constants."""
    return IRBuilder.name(name, T.alloc_buffer((count,), dtype, scope="local"))


def shared(name: str, shape: Sequence[int], dtype: str) -> Any:
    """Return an array in the shared memory of the block, of fixed size."""
    return IRBuilder.name(name, T.alloc_buffer(tuple(shape), dtype, scope="shared"))


def store(buffer: Any, value: Any, *indices: Any) -> None:
    """Store a value."""
    T.buffer_store(buffer, value, list(indices))


def load(buffer: Any, *indices: Any) -> Any:
    """Return a load."""
    return tirx.BufferLoad(buffer, [i32(i) if isinstance(i, int) else i for i in indices])


def at(buffer: Any, offset: Any) -> Any:
    """Return the element of a parameter at an offset into it, as a load to take the address of."""
    return load(buffer, *[0] * (len(buffer.shape) - 1), offset)


def run(first: Any, count: int) -> Any:
    """Return the index of neighbouring elements, which are loaded and stored together."""
    if count == 1:
        return first
    return tirx.Ramp(i32(first) if isinstance(first, int) else first, i32(1), count)


def vector(buffer: Any, offset: Any, lanes: int) -> Any:
    """Return the load of a vector of a parameter."""
    return at(buffer, run(offset, lanes))


def where(condition: Any, value: Any, otherwise: Any) -> Any:
    """Return a value that is computed, and memory that is read, only where a condition holds."""
    return value if condition is True else tirx.if_then_else(condition, value, otherwise)


def address(element: Any) -> Any:
    """Return the address of a load's element."""
    return T.address_of(element)


def ptx(opcode: str, *operands: Any) -> None:
    """Emit one PTX instruction."""
    T.evaluate(T.ptx[opcode](*operands))


def barrier() -> None:
    """Wait for all threads of the block: by a call that TVM knows, so that it adds none itself."""
    T.evaluate(T.tvm_storage_sync("shared"))


def shuffle_xor(register: Any, index: Any, other: Any, bits: int) -> None:
    """Set ``register[other]`` to ``register[index]`` of the lane whose number differs in `bits`."""
    args = u32(bits), u32(31), u32(FULL_WARP)
    ptx("shfl_sync.bfly.b32", register[other], register[index], *args)


def ballot(condition: Any) -> Any:
    """Return the word whose bit l says whether the condition holds in lane l of the warp."""
    return T.cuda.ballot_sync(u32(FULL_WARP), i32(condition))


def shuffle(register: Any, index: Any, other: Any, lane: Any) -> None:
    """Set ``register[other]`` to ``register[index]`` of a lane."""
    args = u32(lane), u32(31), u32(FULL_WARP)
    ptx("shfl_sync.idx.b32", register[other], register[index], *args)


@contextmanager
def when(condition: Any) -> Iterator[None]:
    """Execute what is emitted where a condition holds."""
    if condition is True:
        yield
        return
    with T.If(condition), T.Then():
        yield


def when_else(condition: Any, then: Callable[[], None], otherwise: Callable[[], None]) -> None:
    """Emit two branches."""
    with T.If(condition):
        with T.Then():
            then()
        with T.Else():
            otherwise()


def both(*conditions: Any) -> Any:
    """Return the conjunction; True among them is left out."""
    left = [condition for condition in conditions if condition is not True]
    return True if not left else left[0] if len(left) == 1 else tirx.all(*left)


@contextmanager
def unroll(name: str, extent: int) -> Iterator[Any]:
    """A loop that the CUDA compiler unrolls, so that its variable may index registers."""
    if extent == 1:
        yield i32(0)
        return
    with T.unroll(0, extent) as var:
        yield IRBuilder.name(name, var)


@contextmanager
def loop(name: str, extent: int, *, rolled: bool = False) -> Iterator[Any]:
    """A loop of the CUDA code, which its compiler may unroll in part unless it is `rolled`."""
    if extent == 1:
        yield i32(0)
        return
    with T.serial(0, extent, unroll=False if rolled else None) as var:
        yield IRBuilder.name(name, var)


@contextmanager
def resident(blocks: int) -> Iterator[None]:
    """Keep a kernel's registers few enough for so many blocks on a multiprocessor."""
    with T.attr(i32(0), "tirx.launch_bounds_min_blocks_per_sm", i32(blocks)):
        yield


@contextmanager
def repeat(condition: Any) -> Iterator[None]:
    """A loop for as long as a condition holds."""
    with T.While(condition):
        yield


class Shared:
    """The shared memory of a block, addressed in bytes from its start.

    Parameters
    ----------
    nbytes : int
    align : int
        Of the start.
    """

    def __init__(self, nbytes: int, align: int = 128) -> None:
        self.nbytes = nbytes
        words = T.alloc_buffer((nbytes // 4,), "uint32", scope="shared.dyn", align=align)
        self.words = IRBuilder.name("shared", words)
        start = T.cuda.cvta_generic_to_shared(self.words.access_ptr("rw"))
        self.start = let("start", start)

    def address(self, offset: Any) -> Any:
        """Return the 32-bit address of a byte."""
        return self.start + u32(offset)

    def store(self, index: Any, value: Any) -> None:
        """Store words; `index` counts words."""
        T.buffer_store(self.words, value, [index])


class Launch(NamedTuple):
    """A kernel.

    Attributes
    ----------
    grid : (x, y, z)
        Blocks; fewer numbers will do.
    threads : int
        Of a block.
    body : callable
        Emits the kernel from its block indices and its thread index.
    """

    grid: Sequence[int]
    threads: int
    body: Callable[[list[Any], Any], None]


def build(params: Sequence[Any], attrs: Mapping[str, Any], *launches: Launch) -> Any:
    """Return a PrimFunc of kernels, launched one after the other.

    Parameters
    ----------
    params : list of tirx.Buffer
    attrs : mapping
        Of the function; those that keep TVM's own schedules away are added.
    launches : Launch
    """
    with IRBuilder() as builder, T.prim_func(private=True, s_tir=True):
        T.func_name("main")
        kept = {key: value for key, value in attrs.items() if key != "global_symbol"}
        T.func_attr({**kept, "tirx.noalias": True, "tirx.is_scheduled": True})
        for param in params:
            T.arg(str(param.name), param)
        with T.sblock("root"):
            T.reads([])
            T.writes([])
            for launch in launches:
                axes = [*zip("xyz", launch.grid, strict=False)]
                frames = [T.launch_thread(f"blockIdx.{axis}", extent) for axis, extent in axes]
                frames.append(T.launch_thread("threadIdx.x", launch.threads))
                _nested(frames, [], launch.body)
    symbol = attrs.get("global_symbol")
    made = builder.get()
    return made if symbol is None else made.with_attr("global_symbol", symbol)


def _nested(frames: list[Any], indices: list[Any], body: Callable[[list[Any], Any], None]) -> None:
    if not frames:
        *blocks, thread = indices
        with T.attr(i32(0), "pragma_unroll_explicit", tirx.const(0, "bool")):
            body(blocks, thread)
        return
    with frames[0] as index:
        _nested(frames[1:], [*indices, index], body)

# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: E501 (CUDA in strings)
"""Each instruction that the emulator knows does what NumPy says, and misuse is an error."""

from __future__ import annotations

import numpy as np
import pytest

from tests.cuda.emulator import EmulatorError, Launch, aligned, compile_source, has_compiler, launch
from tests.cuda.ptx import UnknownInstructionError

pytestmark = pytest.mark.skipif(not has_compiler(), reason="the emulator compiles with g++")


def run(body, *arrays, threads=32, shared=0, early=False, helpers="", blocks=1):
    """Run ``body`` as a kernel of parameters p0, p1 … and return the arrays as it leaves them."""
    kinds = {"uint32": "uint", "int32": "int", "float32": "float", "float16": "half"}
    copies = [aligned(array) for array in arrays]
    names = [f"p{i}" for i in range(len(arrays))]
    params = ", ".join(
        f"{kinds[str(array.dtype)]}* __restrict__ {name}"
        for array, name in zip(copies, names, strict=True)
    )
    source = (
        f'{helpers}\nextern "C" __global__ void __launch_bounds__({threads}) k({params}) {{\n'
        f"const int t = threadIdx.x;\n{body}\n}}\n"
    )
    shape = Launch("k", tuple(names), (blocks, 1, 1), (threads, 1, 1), shared)
    launch(compile_source(source), shape, copies, early=early)
    return copies


def words(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 2**32, shape, dtype=np.uint32)


def swizzled(tile, pitch):
    """Return rows of ``pitch`` bytes with the 16-byte chunks of wgmma's swizzle exchanged."""
    data = tile.view(np.uint8).reshape(-1)
    at = np.arange(len(data))
    out = np.empty_like(data)
    out[at ^ ((at >> 7 & (pitch // 16 - 1)) << 4)] = data
    return out.view(np.uint32)


DYNAMIC = "extern __shared__ __align__(1024) uint sm[];"


@pytest.mark.parametrize("early", [False, True])
@pytest.mark.parametrize(
    ("rows", "bits", "op"), [(8, 128, "xor"), (16, 256, "and"), (16, 256, "xor"), (16, 128, "and")]
)
def test_mma_counts_bits_of_fragments(rows, bits, op, early) -> None:
    kw, halves = bits // 32, rows // 8
    a, b = words(rows, kw), words(8, kw, seed=1)
    c = np.arange(rows * 8, dtype=np.uint32).reshape(rows, 8)
    ra = [
        f"p0[(t / 4 + {8 * (i % halves)}) * {kw} + t % 4 + {4 * (i // halves)}]"
        for i in range(halves * kw // 4)
    ]
    rb = [f"p1[t / 4 * {kw} + t % 4 + {4 * i}]" for i in range(kw // 4)]
    n, na, nb = 2 * halves, len(ra), len(rb)
    regs = [f"%{i}" for i in range(n + na + nb + n)]

    def vector(first, count):
        return "{" + ", ".join(regs[first : first + count]) + "}"

    text = f"mma.sync.aligned.m{rows}n8k{bits}.row.col.s32.b1.b1.s32.{op}.popc " + ", ".join(
        [vector(0, n), vector(n, na), vector(n + na, nb), vector(n + na + nb, n)]
    )
    outs = ", ".join(f'"=r"(d[{i}])' for i in range(n))
    ins = ", ".join(f'"r"({x})' for x in [*ra, *rb, *(f"d[{i}]" for i in range(n))])
    at = [f"(t / 4 + {8 * (i // 2)}) * 8 + t % 4 * 2 + {i % 2}" for i in range(n)]
    body = f"uint d[{n}] = {{{', '.join(f'p2[{x}]' for x in at)}}};\n"
    body += f'asm volatile("{text};" : {outs} : {ins});\n'
    body += "".join(f"p2[{x}] = d[{i}];\n" for i, x in enumerate(at))
    f = np.bitwise_and if op == "and" else np.bitwise_xor
    want = c + np.bitwise_count(f(a[:, None], b[None])).sum(-1, dtype=np.uint32)
    np.testing.assert_array_equal(run(body, a, b, c, early=early)[2], want)


@pytest.mark.parametrize("matrices", [1, 2, 4])
def test_ldmatrix_gives_each_lane_its_word(matrices) -> None:
    rows = words(8 * matrices, 4)
    regs = ", ".join(f"%{i}" for i in range(matrices))
    outs = ", ".join(f'"=r"(r[{i}])' for i in range(matrices))
    body = f"""{DYNAMIC}
    for (int i = t; i < {rows.size}; i += 32) sm[i] = p0[i];
    __syncthreads();
    uint r[4];
    asm volatile("ldmatrix.sync.aligned.m8n8.x{matrices}.shared.b16 {{{regs}}}, [%{matrices}];"
      : {outs} : "r"((uint)__cvta_generic_to_shared(&sm[t % {8 * matrices} * 4])) : "memory");
    for (int i = 0; i < {matrices}; ++i) p1[i * 32 + t] = r[i];"""
    got = run(body, rows, np.zeros(32 * matrices, np.uint32), shared=rows.nbytes)[1]
    np.testing.assert_array_equal(got.reshape(matrices, 8, 4), rows.reshape(matrices, 8, 4))


WAIT = 'asm volatile("cp.async.wait_group {};" : : : "memory");'
COPY = """{dynamic}
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" : :
      "r"((uint)__cvta_generic_to_shared(&sm[t * 4])), "l"(&p0[t * 4]), "r"(t == 3 ? 4u : 16u) : "memory");
    asm volatile("cp.async.commit_group;" : :);
    {wait}
    __syncthreads();
    for (int i = 0; i < 4; ++i) p1[t * 4 + i] = sm[t * 4 + i];"""


@pytest.mark.parametrize("early", [False, True])
def test_asynchronous_copies_fill_up_with_zeros(early) -> None:
    a = words(32, 4)
    body = COPY.format(dynamic=DYNAMIC, wait=WAIT.format(0))
    got = run(body, a, np.zeros_like(a), shared=512, early=early)[1]
    a[3, 1:] = 0
    np.testing.assert_array_equal(got, a)


def test_a_copy_that_nobody_waits_for_does_not_arrive() -> None:
    a = words(32, 4)
    got = run(COPY.format(dynamic=DYNAMIC, wait=""), a, np.zeros_like(a), shared=512)[1]
    assert not (got == a).any()


BULK = """{dynamic}
    uint at = (uint)__cvta_generic_to_shared(&sm[0]), done = 0;
    if (t == 0) {{
      asm volatile("mbarrier.init.shared.b64 [%0], %1;" : : "r"(at + 1024), "r"(1u) : "memory");
      asm volatile("fence.proxy.async.shared::cta;" : : : "memory");
      asm volatile("mbarrier.arrive.expect_tx.shared.b64 _, [%0], %1;" : : "r"(at + 1024), "r"({expected}u) : "memory");
      for (int i = 0; i < 2; ++i)
        asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" : :
          "r"(at + i * 256), "l"(&p0[i * 64]), "r"({nbytes}u), "r"(at + 1024) : "memory");
    }}
    __syncthreads();
    while (!done) {{
      asm volatile("{{ .reg .pred pd0; mbarrier.try_wait.parity.shared.b64 pd0, [%1], %2; selp.b32 %0, 1, 0, pd0; }}" :
        "=r"(done) : "r"(at + 1024), "r"(0u) : "memory");
      if ({hasty}) break;
    }}
    for (int i = 0; i < 4; ++i) p1[t * 4 + i] = sm[t * 4 + i];"""


@pytest.mark.parametrize("early", [False, True])
def test_bulk_copies_arrive_at_their_barrier(early) -> None:
    a = words(32, 4)
    body = BULK.format(dynamic=DYNAMIC, expected=512, nbytes=256, hasty=0)
    got = run(body, a, np.zeros_like(a), shared=1032, early=early)[1]
    np.testing.assert_array_equal(got, a)


def test_a_bulk_copy_that_nobody_waits_for_does_not_arrive() -> None:
    a = words(32, 4)
    body = BULK.format(dynamic=DYNAMIC, expected=512, nbytes=256, hasty=1)
    got = run(body, a, np.zeros_like(a), shared=1032)[1]
    assert not (got[0] == a[0]).any() or not (got[31] == a[31]).any()


@pytest.mark.parametrize(
    ("changed", "what"),
    [
        ({"expected": 528}, "never reach"),
        ({"nbytes": 8}, "multiples of 16 bytes, not 8"),
        ({"nbytes": 272}, "cp.async.bulk of 272 bytes at byte 256 of p0"),
        ({"expected": 1 << 20}, "less than 2"),
    ],
)
def test_misused_bulk_copies_are_errors(changed, what) -> None:
    a = words(32, 4)
    body = BULK.format(dynamic=DYNAMIC, **{"expected": 512, "nbytes": 256, "hasty": 0, **changed})
    with pytest.raises(EmulatorError, match=what):
        run(body, a, np.zeros_like(a), shared=1032)


def test_a_barrier_that_nobody_made_is_an_error() -> None:
    body = f"""{DYNAMIC}
    asm volatile("mbarrier.arrive.expect_tx.shared.b64 _, [%0], %1;" : : "r"((uint)__cvta_generic_to_shared(&sm[0])), "r"(16u) : "memory");"""
    with pytest.raises(EmulatorError, match="which nobody made"):
        run(body, np.zeros(32, np.uint32), shared=64)


def wgmma(n, keep=1):
    """Return a helper that multiplies with wgmma, as TVM writes it."""
    regs = ", ".join(f"%{i}" for i in range(n // 2))
    outs = ", ".join(f'"+r"(d[{i}])' for i in range(n // 2))
    end = f"%{n // 2}, %{n // 2 + 1}, ps0; }}"
    return f"""asm volatile("wgmma.fence.sync.aligned;" : : : "memory");
    asm volatile("{{ .reg .pred ps0; setp.ne.b32 ps0, %{n // 2 + 2}, 0; wgmma.mma_async.sync.aligned.m64n{n}k256.s32.b1.b1.and.popc {{{regs}}}, {end}"
      : {outs} : "l"(da), "l"(db), "r"({keep}));
    asm volatile("wgmma.commit_group.sync.aligned;" : : : "memory");
    asm volatile("wgmma.wait_group.sync.aligned 0;" : : : "memory");"""


@pytest.mark.parametrize("early", [False, True])
@pytest.mark.parametrize("swizzle", [0, 32, 64, 128])
def test_wgmma_reads_operands_through_descriptors(swizzle, early) -> None:
    n, pitch = 24, swizzle or 32
    kw = pitch // 4
    a, b = words(64, kw), words(n, kw, seed=1)
    if swizzle:
        laid = np.concatenate([swizzled(x, pitch) for x in (a, b)])
        lead, stride, mode = 1, 8 * pitch // 16, {32: 1, 64: 2, 128: 3}[swizzle]
        leads = [lead, lead]
    else:  # [chunk of 16 bytes][row]
        laid = np.concatenate([x.reshape(-1, 2, 4).transpose(1, 0, 2).reshape(-1) for x in (a, b)])
        leads, stride, mode = [64, n], 8, 0
    steps = kw // 8
    body = f"""{DYNAMIC}
    for (int i = t; i < {laid.size}; i += 128) sm[i] = p0[i];
    __syncthreads();
    uint64_t da, db; uint d[{n // 2}];
    for (int i = 0; i < {n // 2}; ++i) d[i] = 5;
    ptx_wgmma_encode_matrix_descriptor(&da, &sm[0], {leads[0]}, {stride}, {mode});
    ptx_wgmma_encode_matrix_descriptor(&db, &sm[{64 * kw}], {leads[1]}, {stride}, {mode});
    for (int s = 0; s < {steps}; ++s, da += 2, db += 2) {{ {wgmma(n, "s > 0")} }}
    for (int j = 0; j < {n // 2}; ++j)
      p1[(t / 32 * 16 + t % 32 / 4 + 8 * (j / 2 % 2)) * {n} + 8 * (j / 4) + 2 * (t % 4) + j % 2] = d[j];"""
    got = run(
        body, laid, np.zeros((64, n), np.uint32), threads=128, shared=laid.nbytes, early=early
    )
    want = np.bitwise_count(a[:, None] & b[None]).sum(-1, dtype=np.uint32)
    np.testing.assert_array_equal(got[1], want)


def test_loads_and_stores_of_shared_memory() -> None:
    a = words(32, 4)
    body = f"""{DYNAMIC}
    uint at = (uint)__cvta_generic_to_shared(&sm[0]), r[4];
    for (int i = 0; i < 4; ++i) asm volatile("st.shared.u32 [%0], %1;" : : "r"(at + t * 16 + i * 4), "r"(p0[t * 4 + i]) : "memory");
    __syncthreads();
    asm volatile("ld.shared.v4.u32 {{%0, %1, %2, %3}}, [%4];" : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(at + (t ^ 1) * 16) : "memory");
    for (int i = 0; i < 4; ++i) p1[t * 4 + i] = r[i];"""
    got = run(body, a, np.zeros_like(a), shared=512)[1]
    np.testing.assert_array_equal(got, a[np.arange(32) ^ 1])


def test_shuffles_and_votes_exchange_values() -> None:
    a = words(32)
    body = """uint v = p0[t];
    p1[t] = __shfl_xor_sync(0xffffffffu, v, 5);
    p1[32 + t] = __shfl_sync(0xffffffffu, v, 31 - t);
    p1[64 + t] = __shfl_down_sync(0xffffffffu, v, 3);
    p1[96 + t] = __shfl_up_sync(0xffffffffu, v, 3);
    p1[128 + t] = __ballot_sync(0xffffffffu, v & 1);
    if (t < 8) p1[160 + t] = __shfl_xor_sync(0xffu, v, 1);
    asm volatile("shfl.sync.bfly.b32 %0, %1, %2, %3, %4;" : "=r"(p1[192 + t]) : "r"(v), "r"(2u), "r"(31u), "r"(0xffffffffu));"""
    got = run(body, a, np.zeros((7, 32), np.uint32))[1]
    lane = np.arange(32)
    ballot = int(((a & 1).astype(np.uint64) << lane.astype(np.uint64)).sum())
    down, up = np.minimum(lane + 3, 31), np.maximum(lane - 3, 0)
    down[29:], up[:3] = lane[29:], lane[:3]
    want = [a[lane ^ 5], a[31 - lane], a[down], a[up], np.full(32, ballot, np.uint32)]
    np.testing.assert_array_equal(got[:5], want)
    np.testing.assert_array_equal(got[5, :8], a[lane[:8] ^ 1])
    np.testing.assert_array_equal(got[6], a[lane ^ 2])


def test_counts_vectors_and_half_floats() -> None:
    a, f = words(32, 4), np.random.default_rng(2).standard_normal(32).astype(np.float32)
    body = """uint4 v = *(uint4*)(p0 + t * 4);
    p1[t] = __popc(v.x) + __popc(v.w) + __dp4a((int)v.y, (int)v.z, 0);
    p3[t] = __float2half_rn(p2[t]);
    p2[t] = __half2float(p3[t]) + __uint_as_float(0);"""
    got = run(body, a, np.zeros(32, np.int32), f, np.zeros(32, np.float16))
    bytes_ = a.view(np.int8).reshape(32, 4, 4).astype(np.int32)
    want = np.bitwise_count(a[:, [0, 3]]).sum(-1) + (bytes_[:, 1] * bytes_[:, 2]).sum(-1)
    np.testing.assert_array_equal(got[1], want)
    np.testing.assert_array_equal(got[3], f.astype(np.float16))
    np.testing.assert_array_equal(got[2], f.astype(np.float16).astype(np.float32))


def test_bits_of_three_operands_by_a_table() -> None:
    body = """asm volatile("lop3.b32 %0, %1, %2, %3, %4;"
      : "=r"(p1[t]) : "r"(p0[t]), "r"(p0[t + 32]), "r"(p0[t + 64]), "n"(0xCA));"""
    a = words(96)
    choose, one, other = a[:32], a[32:64], a[64:]
    got = run(body, a, np.zeros(32, np.uint32))[1]
    np.testing.assert_array_equal(got, (choose & one) | (~choose & other))


def test_named_barriers_order_two_groups_of_warps() -> None:
    body = """__shared__ uint box[64];
    if (t < 64) { box[t] = t * t; asm volatile("bar.arrive %0, %1;" : : "r"(1u), "r"(128u) : "memory"); }
    else { asm volatile("bar.sync %0, %1;" : : "r"(1u), "r"(128u) : "memory"); p0[t - 64] = box[t - 64]; }"""
    for early in (False, True):
        got = run(body, np.zeros(64, np.uint32), threads=128, early=early)[0]
        np.testing.assert_array_equal(got, np.arange(64) ** 2)


def test_a_missing_barrier_shows() -> None:
    body = "__shared__ uint box[64]; box[t] = 7; p0[t] = box[t ^ 33];"
    zeros = np.zeros(64, np.uint32)
    results = [run(body, zeros, threads=64, early=early)[0] for early in (False, True)]
    assert any((result != 7).any() for result in results)


ERRORS = {
    "reads behind an array": ("p0[t] = p0[t + 1];", "access of 4 bytes at byte 128 of p0"),
    "misaligned vector": ("*(uint2*)(p0 + t % 2) = make_uint2(1, 2);", "not aligned to 8"),
    "vector over the end": ("*(uint4*)(p0 + 28 + t * 4) = make_uint4(1, 2, 3, 4);", "of p0"),
    "shared out of bounds": ("__shared__ uint s[8]; s[t] = 1;", "byte 32 of s, which has 32"),
    "diverged barrier": ("if (t < 16) __syncthreads();", "never reach"),
    "diverged warp": ("if (t < 16) __syncwarp(); else __ballot_sync(~0u, 1);", "diverged"),
    "lane outside of its mask": ("__shfl_sync(0xffffu, t, 0);", "leaves out"),
    "no dynamic shared memory": ("extern __shared__ uint sm[]; sm[0] = 1;", "none was asked for"),
    "too much static shared memory": ("__shared__ uint s[12289]; s[t] = 1;", "48 KiB"),
    "wgmma of one warp": (
        'asm volatile("wgmma.fence.sync.aligned;" : : : "memory");',
        "four whole warps",
    ),
}


@pytest.mark.parametrize("what", ERRORS)
def test_misuse_is_an_error(what) -> None:
    body, wanted = ERRORS[what]
    with pytest.raises(EmulatorError, match=wanted):
        run(body, np.zeros(32, np.uint32))


def test_unknown_instructions_are_refused() -> None:
    with pytest.raises(UnknownInstructionError, match=r"fancy\.add"):
        run('asm volatile("fancy.add %0, %1;" : "=r"(p0[t]) : "r"(1u));', np.zeros(32, np.uint32))

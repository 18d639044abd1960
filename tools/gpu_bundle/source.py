# SPDX-License-Identifier: Apache-2.0
"""CUDA source of the microbenchmarks: one instruction each, in independent chains.

Every kernel takes ``(source, out, stamps, loops)``: random words, one word of result for each
thread, four clock readings of the first block, and how often the loop runs. `parts/expected.py`
computes the results in Python. What a chip lacks is left out of its part of the fat binary; what it
would emulate is left in, since that is what a program gets there.
"""

from __future__ import annotations

import re

_HEAD = r"""
#include <stdint.h>
#define THREAD (blockIdx.x * blockDim.x + threadIdx.x)

__forceinline__ __device__ unsigned long long now() {
  unsigned long long t;
  asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(t));
  return t;
}
// Cycles and nanoseconds of one thread say which clock the chip ran at.
#define START if (THREAD == 0) { stamps[0] = clock64(); stamps[1] = now(); }
#define STOP if (THREAD == 0) { stamps[2] = clock64(); stamps[3] = now(); }

// What a thread gives for its accumulators.
__forceinline__ __device__ uint32_t weighted(const uint32_t* values, int count) {
  uint32_t sum = 0;
  for (int i = 0; i < count; ++i) sum += (2 * i + 1) * values[i];
  return sum;
}
__forceinline__ __device__ uint32_t weighted(const float* values, int count) {
  uint32_t sum = 0;
  for (int i = 0; i < count; ++i) sum += (2 * i + 1) * (uint32_t)(int)values[i];
  return sum;
}

extern "C" __global__ void empty() {}

// 8 POPC beside 16 additions, which run elsewhere at four times the rate.
@KERNEL popc {
  uint32_t x[8], c[8];
  for (int j = 0; j < 8; ++j) { x[j] = source[threadIdx.x % 32 + 32 * j]; c[j] = 0; }
  START
  for (int i = 0; i < n; ++i)
    #pragma unroll
    for (int j = 0; j < 8; ++j) { c[j] += __popc(x[j]); x[j] += 0x9E3779B9u; }
  STOP
  out[THREAD] = weighted(c, 8);
}

// What K1 does: exclusive or, POPC, addition for each word.
@KERNEL xnor_popc {
  uint32_t a[4], w[8];
  uint32_t c[32];
  for (int i = 0; i < 4; ++i) a[i] = source[threadIdx.x % 32 + 32 * i];
  for (int j = 0; j < 8; ++j) w[j] = source[threadIdx.x % 32 + 32 * j + 256];
  for (int i = 0; i < 32; ++i) c[i] = 0;
  START
  for (int t = 0; t < n; ++t) {
    #pragma unroll
    for (int i = 0; i < 4; ++i)
      #pragma unroll
      for (int j = 0; j < 8; ++j) c[i * 8 + j] += __popc(a[i] ^ w[j]);
    #pragma unroll
    for (int i = 0; i < 4; ++i) a[i] += 0x9E3779B9u;
  }
  STOP
  out[THREAD] = weighted(c, 32);
}

// Seven words by a carry-save tree: three POPC instead of seven, the adders are LOP3.
__forceinline__ __device__ void add3(uint32_t& high, uint32_t& low, uint32_t a, uint32_t b,
                                     uint32_t c) {
  low = a ^ b ^ c;
  high = (a & b) | (c & (a ^ b));
}
@KERNEL xnor_csa7 {
  uint32_t a[7], w[28];
  uint32_t c[4] = {0, 0, 0, 0};
  for (int i = 0; i < 7; ++i) a[i] = source[threadIdx.x % 32 + 32 * i];
  for (int j = 0; j < 28; ++j) w[j] = source[threadIdx.x % 32 + 32 * j + 256];
  START
  for (int t = 0; t < n; ++t) {
    #pragma unroll
    for (int j = 0; j < 4; ++j) {
      uint32_t x[7], t1, t2, t3, s1, s2, one, two, four;
      #pragma unroll
      for (int i = 0; i < 7; ++i) x[i] = a[i] ^ w[j * 7 + i];
      add3(t1, s1, x[0], x[1], x[2]);
      add3(t2, s2, s1, x[3], x[4]);
      add3(t3, one, s2, x[5], x[6]);
      add3(four, two, t1, t2, t3);
      c[j] += __popc(one) + 2 * __popc(two) + 4 * __popc(four);
    }
    #pragma unroll
    for (int i = 0; i < 7; ++i) a[i] += 0x9E3779B9u;
  }
  STOP
  out[THREAD] = weighted(c, 4);
}

// Reads words in rounds; each round of a thread starts elsewhere. n counts rounds, out[0] words.
@KERNEL read {
  const uint4* p = (const uint4*)source;
  unsigned words = out[0] / 4, all = gridDim.x * blockDim.x;
  uint32_t sum = 0;
  __syncthreads();
  START
  for (int r = 0; r < n; ++r)
    for (unsigned i = THREAD; i < words; i += 4 * all) {
      uint4 v[4];
      #pragma unroll
      for (int j = 0; j < 4; ++j) {
        v[j] = make_uint4(0, 0, 0, 0);
        if (i + j * all < words) v[j] = __ldcg(p + i + j * all);
      }
      #pragma unroll
      for (int j = 0; j < 4; ++j) sum += v[j].x + v[j].y + v[j].z + v[j].w;
    }
  STOP
  atomicAdd(out + 1, sum);
}

// Copies one half of a buffer to the other; the words of a half are in out[0].
@KERNEL copy {
  const uint4* from = (const uint4*)source;
  unsigned words = out[0] / 4, all = gridDim.x * blockDim.x;
  uint4* to = (uint4*)source + words;
  START
  for (int r = 0; r < n; ++r)
    for (unsigned i = THREAD; i < words; i += all) to[i] = __ldcs(from + i);
  STOP
}
"""

# Eight numbers, each changed by its neighbour and a constant in turn.
_CHAINS = r"""
@KERNEL {name} {{
  uint32_t x[8], k[8];
  for (int j = 0; j < 8; ++j) {{
    x[j] = source[threadIdx.x % 32 + 32 * j];
    k[j] = source[threadIdx.x % 32 + 32 * j + 256];
  }}
  START
  for (int i = 0; i < n; ++i)
    #pragma unroll
    for (int j = 0; j < 8; ++j) {step}
  STOP
  out[THREAD] = weighted(x, 8);
}}
"""

_MMA = r"""
#if __CUDA_ARCH__ >= {arch}
@KERNEL {name} {{
  uint32_t a[{na}], b[{nb} * 8];
  {element} c[{nc} * 8];
  for (int i = 0; i < {na}; ++i) a[i] = {mask}(source[threadIdx.x % 32 + 32 * i]);
  for (int i = 0; i < {nb} * 8; ++i) b[i] = {mask}(source[threadIdx.x % 32 + 32 * i + 256]);
  for (int i = 0; i < {nc} * 8; ++i) c[i] = 0;
  START
  for (int t = 0; t < n; ++t)
    #pragma unroll
    for (int j = 0; j < 8; ++j)
      asm volatile("{ptx} {{{outs}}}, {{{left}}}, {{{right}}}, {{{outs}}};"
                   : {constraints_out} : {constraints_in});
  STOP
  out[THREAD] = weighted(c, {nc} * 8);
}}
#endif
"""

_WGMMA = r"""
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
@KERNEL {name} {{
  extern __shared__ __align__(1024) uint32_t shared[];
  for (int i = threadIdx.x; i < (128 + {n}) * 32; i += blockDim.x)
    shared[i] = {mask}(source[i]);
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
  __syncthreads();
  // No swizzle: pieces of 8 rows by 16 bytes, 128 bytes each; the next piece of the row 128 bytes
  // on, the next 8 rows 1024 bytes on.
  uint64_t form = (uint64_t(1024 >> 4) << 32) | (uint64_t(128 >> 4) << 16);
  uint32_t base = (uint32_t)__cvta_generic_to_shared(shared);
  uint64_t a = form | ((base + threadIdx.x / 128 * 8192) >> 4), b = form | ((base + 16384) >> 4);
  {element} c[{nc}];
  for (int i = 0; i < {nc}; ++i) c[i] = 0;
  START
  // Without this fence, or with a loop that is not unrolled, ptxas waits for each wgmma.
  for (int t = 0; t < n; ++t) {{
    asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
    #pragma unroll
    for (int s = 0; s < 4; ++s)
      asm volatile("{{.reg .pred p; setp.ne.b32 p, 1, 0;\n"
                   "{ptx} {{{outs}}}, %{nc}, %{nc1}, p{extra};}}\n"
                   : {constraints_out} : "l"(a + 16 * s), "l"(b + 16 * s));
    asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
    asm volatile("wgmma.wait_group.sync.aligned 1;" ::: "memory");
  }}
  asm volatile("wgmma.wait_group.sync.aligned 0;" ::: "memory");
  STOP
  out[THREAD] = weighted(c, {nc});
}}
#endif
"""

# How words become operands that the sums of are exact: bits, small bytes, halves that are ±1.
_BITS = "bits"
_BYTES = "small_bytes"
_HALVES = "small_halves"
_OPERANDS = r"""
__forceinline__ __device__ uint32_t bits(uint32_t x) { return x; }
// Each byte's low 7 bits, as a signed number.
__forceinline__ __device__ uint32_t small_bytes(uint32_t x) {
  x &= 0x7F7F7F7Fu;
  return x | ((x & 0x40404040u) << 1);
}
// Each half is 1 or -1, by its lowest bit.
__forceinline__ __device__ uint32_t small_halves(uint32_t x) {
  return 0x3C003C00u | ((x & 0x00010001u) << 15);
}
"""

#: Name → what changes a number.
CHAINS = {
    "lop3": 'asm volatile("lop3.b32 %0, %0, %1, %2, 0x96;" '
    ': "+r"(x[j]) : "r"(x[(j + 1) % 8]), "r"(k[j]));',
    "iadd3": "x[j] = x[j] + x[(j + 1) % 8] + k[j];",
}

#: Name → (PTX, first architecture, words of A, of B, accumulators of one thread, element, operands)
MMA = {
    "mma_b1_xor_8x8x128": (
        "mma.sync.aligned.m8n8k128.row.col.s32.b1.b1.s32.xor.popc",
        *(750, 1, 1, 2, "uint32_t", _BITS),
    ),
    "mma_b1_and_8x8x128": (
        "mma.sync.aligned.m8n8k128.row.col.s32.b1.b1.s32.and.popc",
        *(800, 1, 1, 2, "uint32_t", _BITS),
    ),
    "mma_b1_xor_16x8x256": (
        "mma.sync.aligned.m16n8k256.row.col.s32.b1.b1.s32.xor.popc",
        *(800, 4, 2, 4, "uint32_t", _BITS),
    ),
    "mma_b1_and_16x8x256": (
        "mma.sync.aligned.m16n8k256.row.col.s32.b1.b1.s32.and.popc",
        *(800, 4, 2, 4, "uint32_t", _BITS),
    ),
    "mma_s8_16x8x32": (
        "mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32",
        *(800, 4, 2, 4, "uint32_t", _BYTES),
    ),
    "mma_f16_16x8x16": (
        "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32",
        *(800, 4, 2, 4, "float", _HALVES),
    ),
}

#: Name → (PTX, columns, element, operands, what follows the predicate)
WGMMA = {
    **{
        f"wgmma_b1_64x{n}x256": (
            f"wgmma.mma_async.sync.aligned.m64n{n}k256.s32.b1.b1.and.popc",
            *(n, "uint32_t", _BITS, ""),
        )
        for n in (64, 128, 256)
    },
    "wgmma_s8_64x256x32": (
        "wgmma.mma_async.sync.aligned.m64n256k32.s32.s8.s8",
        *(256, "uint32_t", _BYTES, ""),
    ),
    "wgmma_f16_64x256x16": (
        "wgmma.mma_async.sync.aligned.m64n256k16.f32.f16.f16",
        *(256, "float", _HALVES, ", 1, 1, 0, 0"),
    ),
}


_KERNEL = re.compile(r"@KERNEL (\w+) {")
_PARAMETERS = (
    "const uint32_t* __restrict__ source, uint32_t* __restrict__ out, "
    "unsigned long long* __restrict__ stamps, const int* __restrict__ loops"
)


def source() -> str:
    """Return the whole text, for ``nvcc -fatbin``."""
    chains = [_CHAINS.format(name=name, step=step) for name, step in CHAINS.items()]
    text = "".join([_HEAD, *chains, _OPERANDS, *map(_mma, MMA), *map(_wgmma, WGMMA)])
    return _KERNEL.sub(
        lambda found: (
            f'extern "C" __global__ void __launch_bounds__(256) {found[1]}({_PARAMETERS}) {{\n'
            "  const int n = loops[0];"
        ),
        text,
    )


def _mma(name: str) -> str:
    ptx, arch, na, nb, nc, element, mask = MMA[name]
    letter = "f" if element == "float" else "r"

    def registers(first: int, count: int) -> str:
        return ", ".join(f"%{first + i}" for i in range(count))

    inputs = [f'"r"(a[{i}])' for i in range(na)] + [f'"r"(b[{nb} * j + {i}])' for i in range(nb)]
    return _MMA.format(
        name=name,
        arch=arch,
        ptx=ptx,
        na=na,
        nb=nb,
        nc=nc,
        element=element,
        mask=mask,
        outs=registers(0, nc),
        left=registers(nc, na),
        right=registers(nc + na, nb),
        constraints_out=", ".join(f'"+{letter}"(c[{nc} * j + {i}])' for i in range(nc)),
        constraints_in=", ".join(inputs),
    )


def _wgmma(name: str) -> str:
    ptx, n, element, mask, extra = WGMMA[name]
    letter, nc = "f" if element == "float" else "r", n // 2
    return _WGMMA.format(
        name=name,
        ptx=ptx,
        n=n,
        nc=nc,
        nc1=nc + 1,
        element=element,
        mask=mask,
        extra=extra,
        outs=",".join(f"%{i}" for i in range(nc)),
        constraints_out=",".join(f'"+{letter}"(c[{i}])' for i in range(nc)),
    )

// SPDX-License-Identifier: Apache-2.0
// CUDA on a CPU: what tests/cuda/emulator.py compiles generated kernels against. One fiber for each
// CUDA thread; exact, slow and strict. Every access through a kernel's pointers or to shared memory
// is checked for bounds and alignment, what was never written holds noise, every thread has to take
// part in a barrier, and asynchronous work is done as late as it may be (or, with reversed threads,
// as early). Not seen: races on one address between barriers that neither order shows, and a
// missing fence between ordinary stores and wgmma.
#pragma once
#include <cmath>
#include <cstdarg>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <type_traits>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __restrict__
#define CUDART_INF_F INFINITY
#define CUDART_NAN_F NAN
using uint = unsigned int;
using uchar = unsigned char;
using ushort = unsigned short;
using half = _Float16;

struct dim3 { unsigned x, y, z; };
#define VECTORS(T, N)                                                                        \
  struct N##1 { T x; };                                                                      \
  struct alignas(2 * sizeof(T)) N##2 { T x, y; };                                            \
  struct N##3 { T x, y, z; };                                                                \
  struct alignas(4 * sizeof(T)) N##4 { T x, y, z, w; };                                      \
  inline N##2 make_##N##2(T x, T y) { return {x, y}; }                                       \
  inline N##3 make_##N##3(T x, T y, T z) { return {x, y, z}; }                               \
  inline N##4 make_##N##4(T x, T y, T z, T w) { return {x, y, z, w}; }
VECTORS(signed char, char) VECTORS(unsigned char, uchar) VECTORS(short, short)
VECTORS(unsigned short, ushort) VECTORS(int, int) VECTORS(unsigned, uint) VECTORS(float, float)
#undef VECTORS
struct alignas(16) longlong2 { long long x, y; };
struct alignas(16) ulonglong2 { unsigned long long x, y; };
struct alignas(16) double2 { double x, y; };
struct alignas(4) half2 { half x, y; };
struct alignas(8) half4 { half x, y, z, w; };

namespace emu {

constexpr int kMaxThreads = 1024, kStack = 128 << 10, kMaxRegions = 64, kMaxShared = 256 << 10;
constexpr int kMaxCopies = 512, kMaxGroups = 64;

// -- fibers ------------------------------------------------------------------------------------
#if defined(__x86_64__)
asm(R"(
.text
.local emu_switch
.type emu_switch,@function
emu_switch:
  pushq %rbp; pushq %rbx; pushq %r12; pushq %r13; pushq %r14; pushq %r15
  movq %rsp, (%rdi)
  movq (%rsi), %rsp
  popq %r15; popq %r14; popq %r13; popq %r12; popq %rbx; popq %rbp
  ret
)");
extern "C" void emu_switch(void** from, void** to) asm("emu_switch");
using Context = void*;
inline void change(Context& from, Context& to) { emu_switch(&from, &to); }
inline void begin(Context& context, char* stack, size_t size, void (*entry)()) {
  auto top = reinterpret_cast<uintptr_t>(stack + size) & ~uintptr_t(63);
  auto* frame = reinterpret_cast<void**>(top - 64);
  memset(frame, 0, 64);
  frame[6] = reinterpret_cast<void*>(entry);
  context = frame;
}
#else
}  // namespace emu
#include <ucontext.h>
namespace emu {
using Context = ucontext_t;
inline void change(Context& from, Context& to) { swapcontext(&from, &to); }
inline void begin(Context& context, char* stack, size_t size, void (*entry)()) {
  getcontext(&context);
  context.uc_stack.ss_sp = stack;
  context.uc_stack.ss_size = size;
  makecontext(&context, entry, 0);
}
#endif

struct Region { char* base; size_t bytes; const char* name; };
struct Barrier { int arrived, generation, kind, expected; };
struct Copy { char* to; const char* from; int bytes, read; };
struct Mma { uint* sums[128]; uint64_t a, b; int columns; bool keep; };
template <class T, int N> struct Queue {  // groups of asynchronous operations of one thread
  T item[N];
  int count, group_end[kMaxGroups], groups;
};

static dim3 tid, bid, bdim, gdim;
static Context scheduler, contexts[kMaxThreads];
static char* stacks;
static bool done[kMaxThreads], early;
static int current, threads, moves;
static Barrier block_barriers[16], warp_barriers[kMaxThreads / 32], part_barriers[kMaxThreads],
    group_barriers[kMaxThreads / 128];
static uint slots[4][kMaxThreads][8];
static Queue<Copy, kMaxCopies>* copies;
static Queue<Mma, 64>* mmas;
static Region regions[kMaxRegions];
static int region_count;
alignas(1024) static char shared_memory[kMaxShared];
static size_t static_bytes, dynamic_bytes;
static char message[1024];
static bool failed;
static void (*body)();

[[noreturn]] inline void fail(const char* format, ...) {
  va_list args;
  va_start(args, format);
  int n = snprintf(message, sizeof message, "block (%u, %u, %u), thread (%u, %u, %u): ", bid.x, bid.y,
                   bid.z, tid.x, tid.y, tid.z);
  vsnprintf(message + n, sizeof message - n, format, args);
  va_end(args);
  failed = true;
  change(contexts[current], scheduler);
  abort();
}
inline void pause() { change(contexts[current], scheduler); }

// Wait until `count` threads are at this barrier with the same kind of operation.
inline void arrive(Barrier& b, int count, int kind, bool stay = true) {
  if (b.arrived && b.kind != kind) fail("threads meet in different operations (diverged)");
  if (b.arrived && b.expected != count) fail("threads expect different numbers at one barrier");
  b.kind = kind, b.expected = count;
  int generation = b.generation;
  ++moves;
  if (++b.arrived == count) b.arrived = 0, ++b.generation;
  else if (stay) while (b.generation == generation) pause();
}
inline void bar_sync(uint id, int count) {
  if (id > 15) fail("there are 16 barriers, not one with number %u", id);
  if (count % 32) fail("bar.sync counts whole warps, not %d threads", count);
  arrive(block_barriers[id], count, 1);
}
inline void bar_arrive(uint id, int count) { arrive(block_barriers[id], count, 1, false); }
inline int lane() { return current % 32; }

// Show words to the other lanes of the mask; returns the buffer in which all of them lie.
inline int exchange(uint mask, int kind, const uint* words, int count) {
  if (!(mask >> lane() & 1)) fail("a lane that its mask leaves out takes part in a warp operation");
  int first = current / 32 * 32, index = first + __builtin_ctz(mask);
  Barrier& b = mask == ~0u ? warp_barriers[first / 32] : part_barriers[index];
  int side = (mask == ~0u ? 0 : 2) + (b.generation & 1);
  if (first + 32 > threads) mask &= (1u << threads % 32) - 1;
  memcpy(slots[side][current], words, count * 4);
  arrive(b, __builtin_popcount(mask), kind);
  return side;
}
inline void leave(uint mask, int kind) {  // buffers alternate only among the same lanes
  if (mask != 0xFFFFFFFFu) { uint none = 0; exchange(mask, kind, &none, 1); }
}
inline const uint* slot(int side, int of_lane) { return slots[side][current / 32 * 32 + of_lane]; }

// -- memory --------------------------------------------------------------------------------------
inline void check(const void* at, size_t bytes, size_t align, const Region& r, const char* what) {
  auto* p = static_cast<const char*>(at);
  if (p < r.base || p + bytes > r.base + r.bytes)
    fail("%s of %zu bytes at byte %td of %s, which has %zu", what, bytes, p - r.base, r.name, r.bytes);
  if (reinterpret_cast<uintptr_t>(p) % align)
    fail("%s of %zu bytes at byte %td of %s is not aligned to %zu", what, bytes, p - r.base, r.name, align);
}
inline const Region& shared_region() {
  static Region r;
  r = {shared_memory, static_bytes + dynamic_bytes, "shared memory"};
  return r;
}
inline char* shared_at(uint address, size_t bytes, size_t align, const char* what) {
  check(shared_memory + address, bytes, align, shared_region(), what);
  return shared_memory + address;
}
inline const char* global_at(const void* at, size_t bytes, size_t align, const char* what) {
  auto* p = static_cast<const char*>(at);
  for (int i = 0; i < region_count; ++i)
    if (p >= regions[i].base && p <= regions[i].base + regions[i].bytes) {
      check(p, bytes, align, regions[i], what);
      return p;
    }
  fail("%s from an address of no array", what);
}

template <class T> struct Ptr {
  T* p;
  const Region* region;
  template <class I> T& operator[](I i) const {
    check(p + i, sizeof(T), alignof(T), *region, "access");
    return p[i];
  }
  template <class I> Ptr operator+(I i) const { return {p + i, region}; }
  T& operator*() const { return (*this)[0]; }
  template <class U> explicit operator U*() const {
    check(p, sizeof(U), alignof(U), *region, "vector access");
    return reinterpret_cast<U*>(const_cast<std::remove_const_t<T>*>(p));
  }
  operator const void*() const { return p; }
};
template <class U, class T> Ptr<U> cast(const Ptr<T>& ptr) {
  return {reinterpret_cast<U*>(const_cast<std::remove_const_t<T>*>(ptr.p)), ptr.region};
}
template <class T> Ptr<T> argument(int index) {
  return {reinterpret_cast<T*>(regions[index].base), &regions[index]};
}
template <class T> Ptr<T> dynamic_shared(size_t align) {
  static Region r;
  if (dynamic_bytes == 0) fail("dynamic shared memory is used and none was asked for");
  r = {shared_memory + static_bytes, dynamic_bytes, "shared memory"};
  check(r.base, 1, align, r, "the start");
  return {reinterpret_cast<T*>(r.base), &r};
}
template <class T> Ptr<T> static_shared(size_t offset, size_t count, const char* name, Region& r) {
  r = {shared_memory + offset, count * sizeof(T), name};
  return {reinterpret_cast<T*>(r.base), &r};
}
inline void noise(void* to, size_t bytes, uint seed) {
  auto* p = static_cast<unsigned char*>(to);
  for (size_t i = 0; i < bytes; ++i) seed = seed * 1664525u + 1013904223u, p[i] = seed >> 24;
}

// -- asynchronous copies ---------------------------------------------------------------------------
template <class T, int N> void commit(Queue<T, N>& q) {
  if (q.groups == kMaxGroups) fail("too many groups of asynchronous operations wait");
  q.group_end[q.groups++] = q.count;
}
template <class T, int N, class F> void finish(Queue<T, N>& q, int allowed, F perform) {
  int groups = q.groups > allowed ? q.groups - allowed : 0;
  if (!groups) return;
  int end = q.group_end[groups - 1];
  for (int i = 0; i < end; ++i) perform(q.item[i]);
  memmove(q.item, q.item + end, (q.count - end) * sizeof(T));
  q.count -= end;
  for (int i = groups; i < q.groups; ++i) q.group_end[i - groups] = q.group_end[i] - end;
  q.groups -= groups;
}
inline void perform(const Copy& c) {
  memcpy(c.to, c.from, c.read);
  memset(c.to + c.read, 0, c.bytes - c.read);
}
inline void cp_async(uint to, const void* from, int bytes, uint read) {
  if (read > uint(bytes)) fail("cp.async reads %u of %d bytes", read, bytes);
  Copy c = {shared_at(to, bytes, bytes, "cp.async"), nullptr, bytes, int(read)};
  c.from = global_at(from, read, read ? bytes : 1, "cp.async");
  auto& q = copies[current];
  if (early) perform(c);
  else if (q.count == kMaxCopies) fail("too many asynchronous copies wait");
  else q.item[q.count++] = c;
}
inline void cp_async_commit() { commit(copies[current]); }
inline void cp_async_wait(int allowed) {
  finish(copies[current], allowed, [](const Copy& c) { perform(c); });
}

}  // namespace emu
#include "bulk.hpp"
namespace emu {

// Bit for bit, the bit of the table that three operands choose.
inline uint lop3(uint a, uint b, uint c, uint table) {
  uint r = 0;
  for (int i = 0; i < 8; ++i)
    if (table >> i & 1) r |= (i & 4 ? a : ~a) & (i & 2 ? b : ~b) & (i & 1 ? c : ~c);
  return r;
}

// -- tensor cores --------------------------------------------------------------------------------
inline void ldmatrix(uint* to, int matrices, uint address) {
  int side = exchange(~0u, 100 + matrices, &address, 1);
  for (int m = 0; m < matrices; ++m) {
    char* row = shared_at(slot(side, m * 8 + lane() / 4)[0], 16, 16, "ldmatrix");
    memcpy(&to[m], row + lane() % 4 * 4, 4);
  }
}

// PTX fragments of b1: lane 4g + t holds rows g (and g + 8), words t (and t + 4).
template <int M, int WORDS, bool XOR>
void mma_b1(uint* d, const uint* a, const uint* b, const uint* c) {
  uint words[8] = {};
  constexpr int kA = M / 8 * WORDS / 4, kB = WORDS / 4;
  memcpy(words, a, kA * 4), memcpy(words + kA, b, kB * 4);
  int side = exchange(~0u, 200 + 2 * M + XOR, words, 8), g = lane() / 4, t = lane() % 4;
  for (int h = 0; h < M / 8; ++h)
    for (int j = 0; j < 2; ++j) {
      uint sum = 0;
      for (int w = 0; w < WORDS; ++w) {
        uint x = slot(side, g * 4 + w % 4)[h + M / 8 * (w / 4)];
        uint y = slot(side, (2 * t + j) * 4 + w % 4)[kA + w / 4];
        sum += __builtin_popcount(XOR ? x ^ y : x & y);
      }
      d[2 * h + j] = c[2 * h + j] + sum;
    }
}

// The byte of row `row` of a K-major operand of wgmma (256 bits of K are 32 bytes).
inline uint operand(uint64_t descriptor, int row, int byte) {
  uint64_t start = (descriptor & 0x3FFF) << 4, lead = (descriptor >> 16 & 0x3FFF) << 4;
  uint64_t stride = (descriptor >> 32 & 0x3FFF) << 4, at;
  if (int mode = descriptor >> 62 & 3; mode == 0) {
    at = start + row / 8 * stride + byte / 16 * lead + row % 8 * 16 + byte % 16;
  } else {
    int pitch = 256 >> mode;  // 128, 64 and 32 bytes
    at = start + row / 8 * stride + row % 8 * pitch + byte;
    at ^= (at >> 7 & (pitch / 16 - 1)) << 4;
  }
  uint word;
  memcpy(&word, shared_at(at, 4, 4, "wgmma"), 4);
  return word;
}
inline void perform(const Mma& m) {
  int l = lane(), w = current / 32 % 4;
  for (int j = 0; j < m.columns / 2; ++j) {
    int row = 16 * w + l / 4 + 8 * (j / 2 % 2), column = 8 * (j / 4) + 2 * (l % 4) + j % 2;
    uint sum = 0;
    for (int k = 0; k < 32; k += 4)
      sum += __builtin_popcount(operand(m.a, row, k) & operand(m.b, column, k));
    *m.sums[j] = (m.keep ? *m.sums[j] : 0) + sum;
  }
}
inline Barrier& warpgroup() { return group_barriers[current / 128]; }
inline void wgmma_sync(int kind) {
  if (current / 128 * 128 + 128 > threads) fail("wgmma wants four whole warps");
  arrive(warpgroup(), 128, kind);
}
template <int N> void wgmma_b1(uint* const* sums, uint64_t a, uint64_t b, bool keep) {
  static uint64_t first[kMaxThreads / 128][2];
  auto& q = mmas[current];
  if (q.count == 64) fail("too many wgmma wait");
  Mma& m = q.item[q.count++];
  memcpy(m.sums, sums, N / 2 * sizeof(uint*));
  m.a = a, m.b = b, m.columns = N, m.keep = keep;
  if (warpgroup().arrived == 0) first[current / 128][0] = a, first[current / 128][1] = b;
  if (first[current / 128][0] != a || first[current / 128][1] != b)
    fail("the threads of a warpgroup give wgmma different descriptors");
  wgmma_sync(300 + N);
  if (early) perform(m), wgmma_sync(301 + N);
}
inline void wgmma_fence() { wgmma_sync(3); }
inline void wgmma_commit() { wgmma_sync(4); commit(mmas[current]); }
inline void wgmma_wait(int allowed) {
  wgmma_sync(5);
  finish(mmas[current], allowed, [](const Mma& m) { if (!early) perform(m); });
  wgmma_sync(6);
}
inline uint64_t wgmma_descriptor(uint address, int lead, int stride, int swizzle) {
  if (address % 16) fail("a wgmma operand starts at byte %u, which is no multiple of 16", address);
  return (address >> 4 & 0x3FFF) | uint64_t(lead & 0x3FFF) << 16 | uint64_t(stride & 0x3FFF) << 32 |
         uint64_t(swizzle ? 4 - swizzle : 0) << 62;
}

// -- launch ----------------------------------------------------------------------------------------
inline void entry() {
  body();
  done[current] = true;
  ++moves;
  for (;;) change(contexts[current], scheduler);
}
inline bool run_block() {
  memset(done, 0, sizeof done);
  byte_barrier_count = bulk_copy_count = 0;
  memset(block_barriers, 0, sizeof block_barriers);
  memset(warp_barriers, 0, sizeof warp_barriers);
  memset(part_barriers, 0, sizeof part_barriers);
  memset(group_barriers, 0, sizeof group_barriers);
  noise(shared_memory, static_bytes + dynamic_bytes, 77 * bid.x + 7 * bid.y + bid.z + early);
  for (int i = 0; i < threads; ++i) {
    copies[i].count = copies[i].groups = mmas[i].count = mmas[i].groups = 0;
    begin(contexts[i], stacks + size_t(i) * kStack, kStack, entry);
  }
  for (int left = threads; left;) {
    left = 0, moves = 0;
    for (int i = 0; i < threads; ++i) {
      current = early ? threads - 1 - i : i;
      if (done[current]) continue;
      unsigned c = current;
      tid = {c % bdim.x, c / bdim.x % bdim.y, c / (bdim.x * bdim.y)};
      change(scheduler, contexts[current]);
      if (failed) return false;
      left += !done[current];
    }
    if (left && !moves && !finish_bulk_copy()) {
      snprintf(message, sizeof message, "block (%u, %u, %u): %d of %d threads wait at a barrier that "
               "the others never reach", bid.x, bid.y, bid.z, left, threads);
      return failed = true, false;
    }
  }
  return true;
}
inline const char* launch(const unsigned* grid, const unsigned* block, size_t fixed, size_t dynamic,
                          bool early_, void (*body_)()) {
  gdim = {grid[0], grid[1], grid[2]}, bdim = {block[0], block[1], block[2]};
  threads = bdim.x * bdim.y * bdim.z;
  early = early_, body = body_, failed = false, static_bytes = fixed, dynamic_bytes = dynamic;
  if (threads > kMaxThreads) return "more than 1024 threads in a block";
  if (fixed > 48 << 10) return "more than 48 KiB of static shared memory cannot be launched";
  if (fixed + dynamic > 227 << 10) return "more than 227 KiB of shared memory";
  if (!stacks) {
    stacks = static_cast<char*>(malloc(size_t(kMaxThreads) * kStack));
    copies = new Queue<Copy, kMaxCopies>[kMaxThreads];
    mmas = new Queue<Mma, 64>[kMaxThreads];
  }
  for (bid.z = 0; bid.z < gdim.z; ++bid.z)
    for (bid.y = 0; bid.y < gdim.y; ++bid.y)
      for (bid.x = 0; bid.x < gdim.x; ++bid.x)
        if (!run_block()) return message;
  return nullptr;
}
}  // namespace emu

// -- what kernels call -------------------------------------------------------------------------------
#define threadIdx emu::tid
#define blockIdx emu::bid
#define blockDim emu::bdim
#define gridDim emu::gdim
template <class A, class B> auto max(A a, B b) -> decltype(a + b) { return a > b ? a : b; }
template <class A, class B> auto min(A a, B b) -> decltype(a + b) { return a < b ? a : b; }
inline void __syncthreads() { emu::arrive(emu::block_barriers[0], emu::threads, 1); }
inline void __syncwarp(uint mask = ~0u) { uint none = 0; emu::exchange(mask, 10, &none, 1); }
inline int __popc(uint x) { return __builtin_popcount(x); }
inline int __popcll(unsigned long long x) { return __builtin_popcountll(x); }
inline int __clz(int x) { return x ? __builtin_clz(x) : 32; }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline uint __brev(uint x) {
  uint r = 0;
  for (int i = 0; i < 32; ++i) r |= (x >> i & 1) << (31 - i);
  return r;
}
inline int __dp4a(int a, int b, int c) {
  for (int i = 0; i < 32; i += 8) c += (signed char)(a >> i) * (signed char)(b >> i);
  return c;
}
inline uint __byte_perm(uint x, uint y, uint s) {
  uint64_t both = uint64_t(y) << 32 | x;
  uint r = 0;
  for (int i = 0; i < 4; ++i) r |= uint(both >> ((s >> 4 * i & 7) * 8) & 0xFF) << 8 * i;
  return r;
}
template <class T> T __ldg(const T* p) { return *p; }
template <class T> T __ldg(const emu::Ptr<T>& p) { return p[0]; }
inline size_t __cvta_generic_to_shared(const void* p) {
  emu::check(p, 0, 1, emu::shared_region(), "the address");
  return static_cast<const char*>(p) - emu::shared_memory;
}
inline uint __float_as_uint(float x) { uint y; memcpy(&y, &x, 4); return y; }
inline float __uint_as_float(uint x) { float y; memcpy(&y, &x, 4); return y; }
inline int __float_as_int(float x) { return int(__float_as_uint(x)); }
inline float __int_as_float(int x) { return __uint_as_float(uint(x)); }
inline float __half2float(half x) { return float(x); }
inline half __float2half_rn(float x) { return half(x); }
inline half __float2half(float x) { return half(x); }
inline float __fdividef(float x, float y) { return x / y; }
inline float __expf(float x) { return expf(x); }
inline float __fmaf_rn(float x, float y, float z) { return fmaf(x, y, z); }
inline float __fmul_rn(float x, float y) { return x * y; }
inline float __fadd_rn(float x, float y) { return x + y; }
inline float rsqrtf(float x) { return 1 / sqrtf(x); }
template <class T> T atomicAdd(T* p, T v) { T old = *p; *p += v; return old; }

template <class T> T emu_shuffle(uint mask, T value, int kind, int from, bool outside_keeps) {
  static_assert(sizeof(T) == 4, "shuffles of 4 bytes are emulated");
  uint word;
  memcpy(&word, &value, 4);
  int side = emu::exchange(mask, kind, &word, 1);
  if (from < 0 || from > 31) {
    if (!outside_keeps) from &= 31; else from = emu::lane();
  }
  if (!(mask >> from & 1)) emu::fail("a shuffle reads lane %d, which its mask leaves out", from);
  word = emu::slot(side, from)[0];
  memcpy(&value, &word, 4);
  emu::leave(mask, kind);
  return value;
}
inline void emu_width(int width) { if (width != 32) emu::fail("shuffles of width 32 are emulated"); }
template <class T> T __shfl_sync(uint mask, T v, int from, int width = 32) {
  emu_width(width);
  return emu_shuffle(mask, v, 20, from, false);
}
template <class T> T __shfl_xor_sync(uint mask, T v, int bits, int width = 32) {
  emu_width(width);
  return emu_shuffle(mask, v, 21, emu::lane() ^ bits, true);
}
template <class T> T __shfl_down_sync(uint mask, T v, uint by, int width = 32) {
  emu_width(width);
  return emu_shuffle(mask, v, 22, emu::lane() + int(by), true);
}
template <class T> T __shfl_up_sync(uint mask, T v, uint by, int width = 32) {
  emu_width(width);
  return emu_shuffle(mask, v, 23, emu::lane() - int(by), true);
}
inline uint __ballot_sync(uint mask, int predicate) {
  uint word = predicate != 0, result = 0;
  int side = emu::exchange(mask, 30, &word, 1);
  for (int i = 0; i < 32; ++i)
    if ((mask >> i & 1) && emu::current / 32 * 32 + i < emu::threads) result |= emu::slot(side, i)[0] << i;
  emu::leave(mask, 30);
  return result;
}
inline int __any_sync(uint mask, int predicate) { return __ballot_sync(mask, predicate) != 0; }
inline int __all_sync(uint mask, int predicate) { return __ballot_sync(mask, !predicate) == 0; }
inline void ptx_wgmma_encode_matrix_descriptor(uint64_t* to, const void* at, int lead, int stride,
                                               int swizzle) {
  *to = emu::wgmma_descriptor(uint(__cvta_generic_to_shared(at)), lead, stride, swizzle);
}

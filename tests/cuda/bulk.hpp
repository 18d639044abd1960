// SPDX-License-Identifier: Apache-2.0
// Bulk copies and the barriers in shared memory that count their bytes; a part of device.hpp. A copy
// is done when it is started (early), or else when all threads wait, the last one first.
#pragma once

namespace emu {

struct BulkCopy { char* to; const char* from; uint bytes, barrier; };
struct ByteBarrier {
  uint address;
  int expected, pending, phase;  // arrivals of each phase, and those still to come
  int64_t bytes;                 // still to come
};
static ByteBarrier byte_barriers[64];
static BulkCopy bulk_copies[64];
static int byte_barrier_count, bulk_copy_count;

inline ByteBarrier& byte_barrier(uint address, const char* what) {
  shared_at(address, 8, 8, what);
  for (int i = 0; i < byte_barrier_count; ++i)
    if (byte_barriers[i].address == address) return byte_barriers[i];
  fail("%s of a barrier at byte %u, which nobody made", what, address);
}
inline void mbarrier_init(uint address, uint count) {
  shared_at(address, 8, 8, "mbarrier.init");
  if (!count) fail("mbarrier.init for no arrival");
  for (int i = 0; i < byte_barrier_count; ++i)
    if (byte_barriers[i].address == address) fail("a barrier is made twice at byte %u", address);
  if (byte_barrier_count == 64) fail("too many barriers that count bytes");
  auto& b = byte_barriers[byte_barrier_count++];
  b = {address, int(count), int(count), 0, 0};
}
inline void turn_phase(ByteBarrier& b) {
  if (b.pending || b.bytes) return;
  b.pending = b.expected, ++b.phase, ++moves;
}
inline void mbarrier_expect(uint address, uint bytes) {
  auto& b = byte_barrier(address, "mbarrier.arrive");
  if (!b.pending) fail("more threads arrive at the barrier at byte %u than it was made for", address);
  if (bytes >= 1 << 20) fail("a barrier counts less than 2^20 bytes, not %u", bytes);
  b.bytes += bytes, --b.pending;
  turn_phase(b);
}
inline void perform(const BulkCopy& c) {
  auto& b = byte_barrier(c.barrier, "cp.async.bulk");
  memcpy(c.to, c.from, c.bytes);
  b.bytes -= c.bytes;
  turn_phase(b);
}
inline void bulk_copy(uint to, const void* from, uint bytes, uint barrier) {
  if (!bytes || bytes % 16) fail("cp.async.bulk copies multiples of 16 bytes, not %u", bytes);
  byte_barrier(barrier, "cp.async.bulk");
  BulkCopy c = {shared_at(to, bytes, 16, "cp.async.bulk"), nullptr, bytes, barrier};
  c.from = global_at(from, bytes, 16, "cp.async.bulk");
  if (early) return perform(c);
  if (bulk_copy_count == 64) fail("too many bulk copies wait");
  bulk_copies[bulk_copy_count++] = c;
}
inline bool finish_bulk_copy() {
  if (!bulk_copy_count) return false;
  perform(bulk_copies[--bulk_copy_count]);
  return true;
}
inline bool mbarrier_try_wait(uint address, uint parity) {
  auto& b = byte_barrier(address, "mbarrier.try_wait");
  if (uint(b.phase & 1) != parity) return true;  // the phase of this parity is over
  pause();
  return false;
}
}  // namespace emu

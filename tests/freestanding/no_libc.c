/* SPDX-License-Identifier: Apache-2.0 */
/* The example without a C library: its own start, its own memset and memcpy, x86-64 Linux. */
#include "linear.h"
#include "linear_expected.h"

static _Alignas(LINEAR_ALIGNMENT) unsigned char input[LINEAR_INPUT0_BYTES];
static _Alignas(LINEAR_ALIGNMENT) unsigned char output[LINEAR_OUTPUT0_BYTES];
static _Alignas(LINEAR_ALIGNMENT) unsigned char workspace[LINEAR_WORKSPACE_BYTES];

void *memset(void *to, int value, size_t count) {
  void *at = to;
  __asm__ volatile("rep stosb" : "+D"(at), "+c"(count) : "a"(value) : "memory");
  return to;
}

void *memcpy(void *to, const void *from, size_t count) {
  void *at = to;
  __asm__ volatile("rep movsb" : "+D"(at), "+S"(from), "+c"(count) : : "memory");
  return to;
}

static long call(long number, long a, const void *b, long c) {
  __asm__ volatile("syscall" : "+a"(number) : "D"(a), "S"(b), "d"(c) : "rcx", "r11", "memory");
  return number;
}

__attribute__((force_align_arg_pointer)) void _start(void) {
  float *x = (float *)input, *y = (float *)output;
  uint32_t state = 1;
  int wrong = 0;
  for (int i = 0; i < LINEAR_INPUT0_COUNT; ++i) {
    state = state * 1664525u + 1013904223u;
    x[i] = (float)(state >> 8) / 8388608 - 1;
  }
  wrong += linear_run(x, y, workspace);
  for (int i = 0; i < LINEAR_EXPECTED0_COUNT; ++i)
    wrong += y[i * LINEAR_EXPECTED0_STRIDE] != linear_expected0[i];
  call(1, 1, wrong ? "wrong\n" : "ok\n", wrong ? 6 : 3);
  call(60, wrong != 0, 0, 0);
}

/* SPDX-License-Identifier: Apache-2.0 */
/* Runs programs in a process of its own, without TVM's runtime, and keeps what they compute.
 *
 *     driver BLOB RESULTS guarded|marked
 *
 * RESULTS gets the outputs of every program, in order. A line on standard output is a verdict, the
 * number of the program, and what run.py says for each verdict.
 *
 * guarded: every program once; every array ends where a page ends, up to its alignment, between
 * pages that nobody may touch. marked: every program twice, the arrays packed as an allocator packs
 * them; the calls of the second time lie between marks (mark()), which a plugin of qemu sees. */
#include <setjmp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#include "backend.h"

enum { PAGE = 4096 };

/* Arguments of getppid, which takes none: what profile.c looks for. */
enum { MARK = 0x786e6f72, BEGIN = 1, END = 2 };

static const uint8_t *blob;
static int running, guarded;

static void report(const char *verdict, int count, const unsigned long long *numbers) {
  printf("%s %d", verdict, running);
  for (int i = 0; i < count; ++i) printf(" %llu", numbers[i]);
  puts("");
  fflush(stdout);
}

/* Without the C library, whose instructions would be counted. */
static inline void mark(long what, long call) {
#ifdef __aarch64__
  register long number __asm__("x8") = SYS_getppid, magic __asm__("x0") = MARK;
  register long a __asm__("x1") = what, b __asm__("x2") = running, c __asm__("x3") = call;
  __asm__ volatile("svc 0" : "+r"(magic) : "r"(number), "r"(a), "r"(b), "r"(c) : "memory");
#else
  (void)what, (void)call; /* armv7 is not profiled */
#endif
}

/* What a kernel of TVM expects to exist. */

void TVMFFIErrorSetRaisedFromCStrParts(const char *kind, const char **parts, int count) {
  printf("said %s: ", kind);
  for (int i = 0; i < count; ++i) fputs(parts[i] ? parts[i] : "", stdout);
  puts("");
}

static uint8_t *allocate(uint64_t bytes, uint8_t **pages, size_t *room) {
  size_t before = guarded ? PAGE : 0;
  *room = (bytes + ALIGNMENT + PAGE - 1) / PAGE * PAGE + 2 * before;
  uint8_t *start = mmap(0, *room, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (start == MAP_FAILED) {
    report("full", 0, 0);
    exit(2);
  }
  *pages = start;
  if (!guarded) return start;
  uint8_t *end = start + *room - PAGE;
  mprotect(start, PAGE, PROT_NONE);
  mprotect(end, PAGE, PROT_NONE);
  memset(start + PAGE, FILL, end - start - PAGE);
  return (uint8_t *)((uintptr_t)(end - bytes) & -(uintptr_t)ALIGNMENT);
}

static void *workspace(int type, int id, uint64_t bytes, int code, int bits) {
  (void)type, (void)id, (void)code, (void)bits;
  return aligned_alloc(ALIGNMENT, (size_t)(bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT);
}

static int free_workspace(int type, int id, void *data) {
  (void)type, (void)id;
  free(data);
  return 0;
}

/* Programs. */

typedef struct {
  Tensor tensor;
  int64_t shape[8], strides[8];
  uint8_t *data, *pages;
  size_t room; /* 0 when the data are another array's */
} Placed;

static Placed *placed;
static uint8_t *arena;

static void place(int index, const Array *array) {
  Placed *at = &placed[index];
  memset(at, 0, sizeof *at);
  if (array->view_of >= 0) {
    at->data = placed[array->view_of].data;
  } else if (guarded) {
    at->data = allocate(array->bytes, &at->pages, &at->room);
  } else {
    at->data = arena;
    arena += (array->bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
  }
  if (array->view_of < 0 && array->role == INPUT)
    memcpy(at->data, blob + array->blob_offset, (size_t)array->bytes);
  else if (array->view_of < 0)
    memset(at->data, FILL, (size_t)array->bytes);
  at->tensor = tensor_of(array, at->data, at->shape, at->strides);
}

/* Whether what surrounds an array in its pages is as it was. */
static int is_alone(int index, const Array *array) {
  const Placed *at = &placed[index];
  if (!at->room) return 1;
  const uint8_t *end = at->data + array->bytes;
  const uint8_t *first = (const uint8_t *)((uintptr_t)at->data & -(uintptr_t)PAGE);
  const uint8_t *last = (const uint8_t *)(((uintptr_t)end + PAGE - 1) & -(uintptr_t)PAGE);
  return is_filled(first, at->data) && is_filled(end, last);
}

static sigjmp_buf out;
static volatile unsigned long long fault[3];

static void on_fault(int number, siginfo_t *info, void *context) {
  (void)context;
  fault[1] = (unsigned long long)number;
  fault[2] = (unsigned long long)(uintptr_t)info->si_addr;
  siglongjmp(out, 1);
}

static int call_all(const Program *program, int marked) {
  for (int i = 0; i < program->call_count; ++i) {
    const Call *call = &program->calls[i];
    Value arguments[64], result;
    memset(&result, 0, sizeof result);
    memset(arguments, 0, sizeof arguments);
    for (int j = 0; j < call->count; ++j) {
      arguments[j].kind = 7;
      arguments[j].pointer = &placed[call->arrays[j]].tensor;
    }
    fault[0] = (unsigned long long)i;
    if (marked) mark(BEGIN, i);
    int code = call->kernel(0, arguments, call->count, &result);
    if (marked) mark(END, i);
    if (code) {
      report("error", 1, (unsigned long long[]){(unsigned long long)i});
      return 0;
    }
  }
  return 1;
}

static int run(const Program *program) {
  if (sigsetjmp(out, 1)) {
    report("exception", 3, (unsigned long long[]){fault[0], fault[1], fault[2]});
    return 0;
  }
  if (!call_all(program, 0)) return 0;
  if (!guarded && !call_all(program, 1)) return 0;
  for (int i = 0; i < program->array_count; ++i)
    if (!is_alone(i, &program->arrays[i])) {
      report("stray", 1, (unsigned long long[]){(unsigned long long)i});
      return 0;
    }
  report("ran", 0, 0);
  return 1;
}

static const uint8_t *contents(const char *path) {
  FILE *file = fopen(path, "rb");
  struct stat info;
  if (!file || fstat(fileno(file), &info)) return 0;
  return mmap(0, (size_t)info.st_size + 1, PROT_READ, MAP_PRIVATE, fileno(file), 0);
}

int main(int count, char **arguments) {
  if (count != 4 || !(blob = contents(arguments[1]))) return 2;
  FILE *results = fopen(arguments[2], "wb");
  if (!results) return 2;
  guarded = !strcmp(arguments[3], "guarded");
  stack_t alternative = {.ss_sp = malloc(1 << 16), .ss_size = 1 << 16};
  sigaltstack(&alternative, 0);
  struct sigaction action;
  memset(&action, 0, sizeof action);
  action.sa_sigaction = on_fault;
  action.sa_flags = SA_SIGINFO | SA_ONSTACK;
  int signals[] = {SIGSEGV, SIGBUS, SIGILL, SIGFPE};
  for (int i = 0; i < 4; ++i) sigaction(signals[i], &action, 0);
  for (running = 0; running < program_count; ++running) {
    const Program *program = &programs[running];
    uint64_t bytes = 0;
    for (int i = 0; i < program->array_count; ++i)
      if (program->arrays[i].view_of < 0) bytes += program->arrays[i].bytes + ALIGNMENT;
    placed = malloc(sizeof *placed * (size_t)program->array_count);
    size_t room = 0;
    uint8_t *start = 0;
    if (!guarded) allocate(bytes, &start, &room);
    arena = start;
    for (int i = 0; i < program->array_count; ++i) place(i, &program->arrays[i]);
    int right = run(program);
    for (int i = 0; i < program->array_count; ++i) {
      const Array *array = &program->arrays[i];
      if (right && array->role == OUTPUT && array->view_of < 0)
        fwrite(placed[i].data, 1, (size_t)array->bytes, results);
      if (placed[i].room)
        munmap(placed[i].pages, placed[i].room);
    }
    if (start) munmap(start, room);
    free(placed);
  }
  fclose(results);
  puts("done");
  return 0;
}

/* SPDX-License-Identifier: Apache-2.0 */
/* A plugin of qemu's user mode: which code a kernel call executes how often, and a cache model.
 *
 *     qemu-aarch64 -plugin libprofile.so,out=FILE[,l1=BYTES/WAYS,l2=BYTES/WAYS] driver …
 *
 * Between two marks of driver.c every execution of a block of straight code is counted. FILE gets,
 * for each call,
 *
 *     call PROGRAM CALL ACCESSES L1_MISSES L2_MISSES
 *     count BLOCK TIMES                                       for each block that was executed
 *
 * and before its first count, of each block,
 *
 *     block BLOCK ADDRESS FUNCTION WORD ...                   instruction words in hexadecimal
 *
 * The caches have lines of 64 bytes, replace the least recently used line, and prefetch nothing;
 * what is written is fetched first. They keep their contents between calls.
 *
 * Only the C interface of plugins is used, the few declarations below, so that neither qemu's
 * header nor glib is needed. API is 1 for qemu before 8.2, 2 before 9.1, and 3 since. */
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#ifndef API
#define API 1
#endif

typedef uint64_t Id;
typedef struct Translation Translation;
typedef struct Instruction Instruction;
typedef struct Information Information;

enum { CHANGES_NO_REGISTERS = 0, READS_AND_WRITES = 3 };

extern void qemu_plugin_register_vcpu_tb_trans_cb(Id, void (*)(Id, Translation *));
extern void qemu_plugin_register_vcpu_tb_exec_cb(Translation *, void (*)(unsigned, void *), int,
                                                 void *);
extern void qemu_plugin_register_vcpu_mem_cb(Instruction *,
                                             void (*)(unsigned, uint32_t, uint64_t, void *), int,
                                             int, void *);
extern void qemu_plugin_register_vcpu_syscall_cb(Id,
                                                 void (*)(Id, unsigned, int64_t, uint64_t, uint64_t,
                                                          uint64_t, uint64_t, uint64_t, uint64_t,
                                                          uint64_t, uint64_t));
extern void qemu_plugin_register_atexit_cb(Id, void (*)(Id, void *), void *);
extern size_t qemu_plugin_tb_n_insns(const Translation *);
extern uint64_t qemu_plugin_tb_vaddr(const Translation *);
extern Instruction *qemu_plugin_tb_get_insn(const Translation *, size_t);
extern const char *qemu_plugin_insn_symbol(const Instruction *);
extern unsigned qemu_plugin_mem_size_shift(uint32_t);
#if API < 3
extern const void *qemu_plugin_insn_data(const Instruction *);
#else
extern size_t qemu_plugin_insn_data(const Instruction *, void *, size_t);
#endif

#define EXPORTED __attribute__((visibility("default")))

EXPORTED int qemu_plugin_version = API;

/* As in driver.c. */
enum { MARK = 0x786e6f72, BEGIN = 1, END = 2 };

typedef struct Block {
  uint64_t times, times_before, address;
  size_t count;
  uint32_t *words;
  char *function;
  long number; /* in FILE; -1: not there yet */
  struct Block *next_of_bucket, *next;
} Block;

enum { BUCKETS = 1 << 14 };

static Block *buckets[BUCKETS], *first, **last = &first;
static long written;
static FILE *file;
static int counting;

/* Caches. */

typedef struct {
  uint64_t sets, ways, *tags, *used;
} Cache;

static Cache caches[2];
static int cached;
static uint64_t clock_, accesses, misses[2];

static void make_cache(Cache *cache, const char *bytes_and_ways) {
  char *end;
  uint64_t bytes = strtoull(bytes_and_ways, &end, 10);
  cache->ways = strtoull(end + 1, 0, 10);
  cache->sets = bytes / 64 / cache->ways;
  cache->tags = calloc(cache->sets * cache->ways, sizeof *cache->tags);
  cache->used = calloc(cache->sets * cache->ways, sizeof *cache->used);
  cached = 1;
}

static int hits(Cache *cache, uint64_t line) {
  uint64_t start = line % cache->sets * cache->ways, oldest = start;
  ++clock_;
  for (uint64_t i = start; i < start + cache->ways; ++i) {
    if (cache->tags[i] == line + 1) {
      cache->used[i] = clock_;
      return 1;
    }
    if (cache->used[i] < cache->used[oldest]) oldest = i;
  }
  cache->tags[oldest] = line + 1;
  cache->used[oldest] = clock_;
  return 0;
}

static void touch(uint64_t line) {
  if (hits(&caches[0], line)) return;
  ++misses[0];
  misses[1] += !hits(&caches[1], line);
}

static void on_access(unsigned cpu, uint32_t what, uint64_t address, void *nothing) {
  (void)cpu, (void)nothing;
  ++accesses;
  uint64_t end = address + (1u << qemu_plugin_mem_size_shift(what)) - 1;
  touch(address / 64);
  if (end / 64 != address / 64) touch(end / 64);
}

/* Blocks. */

static void on_block(unsigned cpu, void *block) {
  (void)cpu;
  ++((Block *)block)->times;
}

static Block *block_of(const Translation *translation) {
  uint64_t address = qemu_plugin_tb_vaddr(translation);
  size_t count = qemu_plugin_tb_n_insns(translation);
  Block **bucket = &buckets[(address / 4 * 31 + count) % BUCKETS];
  for (Block *block = *bucket; block; block = block->next_of_bucket)
    if (block->address == address && block->count == count) return block;
  Block *block = calloc(1, sizeof *block);
  block->address = address;
  block->count = count;
  block->words = calloc(count + 1, sizeof *block->words);
  block->number = -1;
  for (size_t i = 0; i < count; ++i) {
    Instruction *instruction = qemu_plugin_tb_get_insn(translation, i);
#if API < 3
    memcpy(&block->words[i], qemu_plugin_insn_data(instruction), 4);
#else
    qemu_plugin_insn_data(instruction, &block->words[i], 4);
#endif
  }
  const char *name = count ? qemu_plugin_insn_symbol(qemu_plugin_tb_get_insn(translation, 0)) : 0;
  block->function = strdup(name && *name ? name : "?");
  block->next_of_bucket = *bucket;
  *bucket = *last = block;
  last = &block->next;
  return block;
}

static void on_translation(Id id, Translation *translation) {
  (void)id;
  qemu_plugin_register_vcpu_tb_exec_cb(translation, on_block, CHANGES_NO_REGISTERS,
                                       block_of(translation));
  if (cached)
    for (size_t i = 0; i < qemu_plugin_tb_n_insns(translation); ++i)
      qemu_plugin_register_vcpu_mem_cb(qemu_plugin_tb_get_insn(translation, i), on_access,
                                       CHANGES_NO_REGISTERS, READS_AND_WRITES, 0);
}

static void write_call(uint64_t program, uint64_t call) {
  fprintf(file, "call %llu %llu %llu %llu %llu\n", (unsigned long long)program,
          (unsigned long long)call, (unsigned long long)accesses, (unsigned long long)misses[0],
          (unsigned long long)misses[1]);
  for (Block *block = first; block; block = block->next) {
    if (block->times == block->times_before) continue;
    if (block->number < 0) {
      block->number = written++;
      fprintf(file, "block %ld %llx %s", block->number, (unsigned long long)block->address,
              block->function);
      for (size_t i = 0; i < block->count; ++i) fprintf(file, " %08x", block->words[i]);
      fputc('\n', file);
    }
    fprintf(file, "count %ld %llu\n", block->number,
            (unsigned long long)(block->times - block->times_before));
  }
}

static void on_syscall(Id id, unsigned cpu, int64_t number, uint64_t magic, uint64_t what,
                       uint64_t program, uint64_t call, uint64_t e, uint64_t f, uint64_t g,
                       uint64_t h) {
  (void)id, (void)cpu, (void)number, (void)e, (void)f, (void)g, (void)h;
  if (magic != MARK) return;
  if (what == END && counting) write_call(program, call);
  counting = what == BEGIN;
  for (Block *block = first; block; block = block->next) block->times_before = block->times;
  accesses = misses[0] = misses[1] = 0;
}

static void on_exit_(Id id, void *nothing) {
  (void)id, (void)nothing;
  fclose(file);
}

EXPORTED int qemu_plugin_install(Id id, const Information *information, int count,
                                 char **arguments) {
  (void)information;
  for (int i = 0; i < count; ++i) {
    if (!strncmp(arguments[i], "out=", 4)) file = fopen(arguments[i] + 4, "w");
    if (!strncmp(arguments[i], "l1=", 3)) make_cache(&caches[0], arguments[i] + 3);
    if (!strncmp(arguments[i], "l2=", 3)) make_cache(&caches[1], arguments[i] + 3);
  }
  if (!file) return 1;
  qemu_plugin_register_vcpu_tb_trans_cb(id, on_translation);
  qemu_plugin_register_vcpu_syscall_cb(id, on_syscall);
  qemu_plugin_register_atexit_cb(id, on_exit_, 0);
  return 0;
}

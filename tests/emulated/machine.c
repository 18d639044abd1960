/* SPDX-License-Identifier: Apache-2.0 */
/* Runs the programs of an image on the bare machine and reports on the serial port.
 *
 * A line is a verdict, the number of the program, and what verdict.py says for each verdict. Every
 * array ends where its 2 MiB page ends, up to its alignment of 64 bytes, and the page behind it
 * does not exist: a kernel that touches another page than those of its arrays is caught. */
#include "backend.h"

enum { PAGE = 2 << 20, GUARD = 4096, MOST_ARRAYS = 512 };

#define ARENA ((uint8_t *)(64ul << 20)) /* behind the image */
#define ARENA_END ((uint8_t *)(1024ul << 20))

extern const uint8_t blob[];
extern uint8_t exception_entries[];
extern uint64_t pages[512];
extern struct {
  uint16_t low, selector;
  uint8_t stack, type;
  uint16_t middle;
  uint32_t high, zero;
} exception_table[32];

static int32_t running;

/* Ports. */

static void port_write(uint16_t port, uint8_t value) {
  __asm__ volatile("outb %0, %1" ::"a"(value), "Nd"(port));
}

static uint8_t port_read(uint16_t port) {
  uint8_t value;
  __asm__ volatile("inb %1, %0" : "=a"(value) : "Nd"(port));
  return value;
}

enum { SERIAL = 0x3f8 };

static void put_char(char c) {
  while (!(port_read(SERIAL + 5) & 0x20)) {
  }
  port_write(SERIAL, (uint8_t)c);
}

static void put_text(const char *text) {
  while (*text) put_char(*text++);
}

static void put_number(uint64_t value) {
  char digits[20];
  int count = 0;
  do digits[count++] = (char)('0' + value % 10);
  while (value /= 10);
  put_char(' ');
  while (count) put_char(digits[--count]);
}

static void report(const char *verdict, int count, const uint64_t *numbers) {
  put_text(verdict);
  put_number((uint64_t)running);
  for (int i = 0; i < count; ++i) put_number(numbers[i]);
  put_char('\n');
}

static void power_off(void) {
  put_text("done\n");
  while (!(port_read(SERIAL + 5) & 0x40)) {
  }
  for (const char *text = "Shutdown"; *text; ++text) port_write(0x8900, (uint8_t)*text);
}

/* What a compiler expects to exist. */

void *memset(void *to, int value, uint64_t count) {
  void *at = to;
  __asm__ volatile("rep stosb" : "+D"(at), "+c"(count) : "a"(value) : "memory");
  return to;
}

void *memcpy(void *to, const void *from, uint64_t count) {
  void *at = to;
  __asm__ volatile("rep movsb" : "+D"(at), "+S"(from), "+c"(count) : : "memory");
  return to;
}

/* What a kernel of TVM expects to exist. */

void TVMFFIErrorSetRaisedFromCStrParts(const char *kind, const char **parts, int count) {
  put_text("said ");
  put_text(kind);
  put_text(": ");
  for (int i = 0; i < count; ++i) put_text(parts[i] ? parts[i] : "");
  put_char('\n');
}

static uint8_t *next_page;

static uint8_t *allocate(uint64_t bytes) {
  uint8_t *end = next_page + (GUARD + bytes + ALIGNMENT + PAGE - 1) / PAGE * PAGE;
  next_page = end + PAGE;
  if (next_page > ARENA_END) {
    report("full", 0, 0);
    power_off();
  }
  pages[(uint64_t)end / PAGE] = 0;
  return (uint8_t *)(((uint64_t)end - bytes) & -(uint64_t)ALIGNMENT);
}

static void forget_translations(void) {
  uint64_t tables;
  __asm__ volatile("mov %%cr3, %0; mov %0, %%cr3" : "=r"(tables) : : "memory");
}

static void *workspace(int type, int id, uint64_t bytes, int code, int bits) {
  (void)type, (void)id, (void)code, (void)bits;
  void *data = allocate(bytes);
  forget_translations();
  return data;
}

static int free_workspace(int type, int id, void *data) {
  (void)type, (void)id, (void)data;
  return 0;
}

/* Programs. */

static Tensor tensors[MOST_ARRAYS];
static int64_t shapes[MOST_ARRAYS][8], strides[MOST_ARRAYS][8];

static void place(int index, const Array *array) {
  int view = array->view_of >= 0;
  uint8_t *data = view ? tensors[array->view_of].data : allocate(array->bytes);
  if (!view) memset(data - GUARD, FILL, GUARD + ((uint64_t)-(int64_t)data & (PAGE - 1)));
  if (array->role == INPUT) memcpy(data, blob + array->blob_offset, array->bytes);
  tensors[index] = tensor_of(array, data, shapes[index], strides[index]);
}

static uint64_t element(const uint8_t *data, uint64_t index, int size) {
  uint64_t value = 0;
  memcpy(&value, data + index * size, size);
  return value;
}

/* Compare one array with what it must hold; return whether it is right. */
static int check(int index, const Array *array) {
  if (array->view_of >= 0) return 1;
  const uint8_t *data = tensors[index].data, *expected = blob + array->blob_offset;
  const uint8_t *end = data + array->bytes;
  const uint8_t *behind = end + ((uint64_t)-(int64_t)end & (ALIGNMENT - 1));
  if (!is_filled(data - GUARD, data) || !is_filled(end, behind)) {
    report("stray", 1, (uint64_t[]){index});
    return 0;
  }
  if (array->role == SCRATCH) return 1;
  int size = array->type_bits / 8;
  uint64_t wrong = 0, first = 0;
  for (uint64_t i = array->bytes / size; i-- > 0;)
    if (element(data, i, size) != element(expected, i, size)) first = i, ++wrong;
  if (wrong)
    report("wrong", 5,
           (uint64_t[]){index, wrong, first, element(data, first, size),
                        element(expected, first, size)});
  return !wrong;
}

static uint64_t ticks(void) {
  uint32_t low, high;
  __asm__ volatile("rdtsc" : "=a"(low), "=d"(high));
  return (uint64_t)high << 32 | low;
}

static void run(const Program *program) {
  next_page = ARENA;
  for (uint64_t page = (uint64_t)ARENA; page < (uint64_t)ARENA_END; page += PAGE)
    pages[page / PAGE] = page | 0x83;
  forget_translations();
  for (int i = 0; i < program->array_count; ++i) place(i, &program->arrays[i]);
  forget_translations();
  uint64_t spent = 0;
  for (int i = 0; i < program->call_count; ++i) {
    const Call *call = &program->calls[i];
    Value arguments[MOST_ARRAYS], result = {0};
    for (int j = 0; j < call->count; ++j)
      arguments[j] = (Value){7, 0, {&tensors[call->arrays[j]]}};
    uint64_t before = ticks();
    int code = call->kernel(0, arguments, call->count, &result);
    spent += ticks() - before;
    if (code) {
      report("error", 1, (uint64_t[]){i});
      return;
    }
  }
  int right = 1;
  for (int i = 0; i < program->array_count; ++i) right &= check(i, &program->arrays[i]);
  if (right) report("ok", 1, (uint64_t[]){spent});
}

static void run_the_rest(void) {
  while (++running < program_count) run(&programs[running]);
  power_off();
}

void exception(uint64_t number, uint64_t address) {
  uint64_t touched;
  __asm__ volatile("mov %%cr2, %0" : "=r"(touched));
  report("exception", 3, (uint64_t[]){number, address, touched});
  run_the_rest();
}

void start(void) {
  for (int i = 0; i < 32; ++i) {
    uint64_t entry = (uint64_t)(exception_entries + 16 * i);
    exception_table[i].low = (uint16_t)entry;
    exception_table[i].selector = 24;
    exception_table[i].type = 0x8e;
    exception_table[i].middle = (uint16_t)(entry >> 16);
    exception_table[i].high = (uint32_t)(entry >> 32);
  }
  port_write(SERIAL + 3, 3); /* characters of 8 bits */
  running = -1;
  run_the_rest();
}

/* SPDX-License-Identifier: Apache-2.0 */
/* Tables of programs; tables.c, which program.py writes, fills them. */
#include <stdint.h>

/* A value of TVM's calling convention; kind 7 is a pointer to a tensor. */
typedef struct {
  int32_t kind;
  uint32_t padding;
  union {
    void *pointer;
    int64_t integer;
  };
} Value;

typedef int Kernel(void *self, Value *arguments, int32_t count, Value *result);

/* TVM's tensor. */
typedef struct {
  void *data;
  struct {
    int32_t type, id;
  } device;
  int32_t dimensions;
  struct {
    uint8_t code, bits;
    uint16_t lanes;
  } type;
  int64_t *shape, *strides;
  uint64_t offset;
} Tensor;

enum Role { INPUT, OUTPUT, SCRATCH };

/* One array of a program. The blob holds what an input is and what an output must be. */
typedef struct {
  enum Role role;
  uint8_t type_code, type_bits;
  int32_t dimensions;
  int64_t shape[8];
  uint64_t bytes, blob_offset;
  int32_t view_of; /* the array whose data this is under another shape; -1: its own */
} Array;

typedef struct {
  Kernel *kernel;
  int32_t count;
  const int32_t *arrays;
} Call;

/* Calls one after the other, on arrays that all calls share. */
typedef struct {
  int32_t array_count, call_count;
  const Array *arrays;
  const Call *calls;
} Program;

extern const Program programs[];
extern const int32_t program_count;

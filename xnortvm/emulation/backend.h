/* SPDX-License-Identifier: Apache-2.0 */
/* What a kernel of TVM expects to exist, on one thread, and its arguments; for one file to include. */
#include "programs.h"

/* Arrays start at multiples of ALIGNMENT; memory that nobody wrote to holds FILL. */
enum { ALIGNMENT = 64, FILL = 0xa5 };

typedef struct {
  void *sync;
  int32_t task_count;
} Tasks;

static int launch(int (*task)(int, Tasks *, void *), void *closure, int count) {
  Tasks alone = {0, 1};
  (void)count;
  return task(0, &alone, closure);
}

static void *workspace(int type, int id, uint64_t bytes, int code, int bits);
static int free_workspace(int type, int id, void *data);

void *__TVMBackendParallelLaunch = (void *)launch;
void *__TVMBackendAllocWorkspace = (void *)workspace;
void *__TVMBackendFreeWorkspace = (void *)free_workspace;

/* The tensor of an array; shape and strides have to last as long as it. */
static Tensor tensor_of(const Array *array, uint8_t *data, int64_t *shape, int64_t *strides) {
  int64_t stride = 1;
  for (int i = array->dimensions - 1; i >= 0; --i) {
    shape[i] = array->shape[i];
    strides[i] = stride;
    stride *= array->shape[i];
  }
  return (Tensor){.data = data,
                  .device = {1, 0},
                  .dimensions = array->dimensions,
                  .type = {array->type_code, array->type_bits, 1},
                  .shape = shape,
                  .strides = strides};
}

static int is_filled(const uint8_t *from, const uint8_t *to) {
  while (from < to)
    if (*from++ != FILL) return 0;
  return 1;
}

/* SPDX-License-Identifier: Apache-2.0 */
/* TVM's C interface in the few words that example.c needs; every failure ends the program. */
#ifndef HELPERS_H
#define HELPERS_H

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <tvm/ffi/c_api.h>

/* One input or output: see model.h. */
typedef struct {
  const char* name;
  const char* file;
  DLDataType dtype;
  int ndim;
  const int64_t* shape;
} ModelTensor;

static inline void die(const char* what) {
  TVMFFIObjectHandle error = NULL;
  TVMFFIErrorMoveFromRaised(&error);
  if (error != NULL) {
    TVMFFIErrorCell* cell = (TVMFFIErrorCell*)((char*)error + sizeof(TVMFFIObject));
    fprintf(stderr, "%s: %.*s\n", what, (int)cell->message.size, cell->message.data);
  } else {
    fprintf(stderr, "%s\n", what);
  }
  exit(2);
}

static inline TVMFFIAny integer(int64_t value) {
  TVMFFIAny any = {0};
  any.type_index = kTVMFFIInt;
  any.v_int64 = value;
  return any;
}

static inline TVMFFIAny call(TVMFFIObjectHandle function, TVMFFIAny* arguments, int count) {
  TVMFFIAny result = {0};
  if (TVMFFIFunctionCall(function, arguments, count, &result) != 0) die("the call failed");
  return result;
}

static inline TVMFFIObjectHandle global_function(const char* name) {
  TVMFFIByteArray bytes = {name, strlen(name)};
  TVMFFIObjectHandle function = NULL;
  if (TVMFFIFunctionGetGlobal(&bytes, &function) != 0 || function == NULL) die(name);
  return function;
}

static inline TVMFFIObjectHandle module_function(TVMFFIAny module, const char* name) {
  TVMFFIAny arguments[3] = {{0}, {0}, {0}};
  arguments[0] = module;
  arguments[1].type_index = kTVMFFIRawStr;
  arguments[1].v_c_str = name;
  arguments[2].type_index = kTVMFFIBool;
  arguments[2].v_int64 = 1; /* also in imported modules */
  TVMFFIAny found = call(global_function("ffi.ModuleGetFunction"), arguments, 3);
  if (found.type_index != kTVMFFIFunction) die(name);
  return found.v_obj;
}

static inline size_t count_of(const ModelTensor* spec) {
  size_t count = 1;
  for (int i = 0; i < spec->ndim; ++i) count *= (size_t)spec->shape[i];
  return count;
}

static inline size_t size_of(const ModelTensor* spec) {
  return count_of(spec) * ((spec->dtype.bits + 7u) / 8u);
}

/* 64 bytes, as wide as any vector register that the kernels use. */
static inline void* aligned_buffer(size_t size) {
  void* data = NULL;
  if (posix_memalign(&data, 64, size ? size : 64) != 0) die("out of memory");
  return data;
}

static inline void read_file(const char* path, void* data, size_t size) {
  FILE* file = fopen(path, "rb");
  if (file == NULL || fread(data, 1, size, file) != size) die(path);
  fclose(file);
}

static inline void keep(DLManagedTensor* tensor) { (void)tensor; } /* the caller owns the data */

static inline TVMFFIAny tensor_of(const ModelTensor* spec, void* data) {
  DLManagedTensor* managed = (DLManagedTensor*)calloc(1, sizeof *managed);
  int64_t* strides = (int64_t*)calloc((size_t)spec->ndim + 1, sizeof *strides);
  if (managed == NULL || strides == NULL) die("out of memory");
  int64_t step = 1;
  for (int i = spec->ndim - 1; i >= 0; step *= spec->shape[i--]) strides[i] = step;
  managed->dl_tensor.data = data;
  managed->dl_tensor.device.device_type = kDLCPU;
  managed->dl_tensor.ndim = spec->ndim;
  managed->dl_tensor.dtype = spec->dtype;
  managed->dl_tensor.shape = (int64_t*)spec->shape;
  managed->dl_tensor.strides = strides;
  managed->deleter = keep;
  TVMFFIAny any = {0};
  TVMFFIObjectHandle tensor = NULL;
  if (TVMFFITensorFromDLPack(managed, 64, 0, &tensor) != 0) die(spec->name);
  any.type_index = kTVMFFITensor;
  any.v_obj = (TVMFFIObject*)tensor;
  return any;
}

/* The i-th output: a model with one output returns it bare, one with several an array. */
static inline TVMFFIAny output(TVMFFIAny result, int i) {
  if (result.type_index == kTVMFFITensor) return result;
  TVMFFIAny arguments[2] = {result, integer(i)};
  return call(global_function("ffi.ArrayGetItem"), arguments, 2);
}

static inline const void* tensor_data(TVMFFIAny tensor) {
  if (tensor.type_index != kTVMFFITensor) die("an output is no tensor");
  DLTensor* view = (DLTensor*)((char*)tensor.v_obj + sizeof(TVMFFIObject));
  return (const char*)view->data + view->byte_offset;
}

static inline void release(TVMFFIAny value) {
  if (value.type_index >= kTVMFFIStaticObjectBegin) TVMFFIObjectDecRef(value.v_obj);
}

static inline double element(const ModelTensor* spec, const void* data, size_t i) {
  const int bits = spec->dtype.bits;
  if (spec->dtype.code == kDLFloat)
    return bits == 64 ? ((const double*)data)[i] : (double)((const float*)data)[i];
  if (spec->dtype.code == kDLInt)
    return bits == 64   ? (double)((const int64_t*)data)[i]
           : bits == 32 ? (double)((const int32_t*)data)[i]
           : bits == 16 ? (double)((const int16_t*)data)[i]
                        : (double)((const int8_t*)data)[i];
  return bits == 64   ? (double)((const uint64_t*)data)[i]
         : bits == 32 ? (double)((const uint32_t*)data)[i]
         : bits == 16 ? (double)((const uint16_t*)data)[i]
                      : (double)((const uint8_t*)data)[i];
}

#endif

/* SPDX-License-Identifier: Apache-2.0 */
/* Runs the model of this folder on its example inputs, compares, and times it. Plain C99 with
 * libtvm_ffi and libtvm_runtime; usage: example_c [FOLDER]. Compiled with -DMODEL_STATIC the model
 * is part of the program instead of being loaded from FOLDER/library.so. */
#include <math.h>
#include <stdio.h>
#include <time.h>

#include "helpers.h"
#include "model.h"

int main(int argc, char** argv) {
  const char* folder = argc > 1 ? argv[1] : ".";
  char path[4096];

  /* 1. The module: linked in, or loaded from a file. */
  TVMFFIAny argument = {0}, module;
  argument.type_index = kTVMFFIRawStr;
#ifdef MODEL_STATIC
  model_register();
  argument.v_c_str = "";
  module = call(global_function("ffi.SystemLib"), &argument, 1);
#else
  snprintf(path, sizeof path, "%s/library.so", folder);
  argument.v_c_str = path;
  module = call(global_function("ffi.ModuleLoadFromFile"), &argument, 1);
#endif

  /* 2. TVM's virtual machine on the CPU, device 0, with a pooled allocator. */
  TVMFFIAny vm = call(module_function(module, "vm_load_executable"), NULL, 0);
  TVMFFIAny device[3] = {integer(kDLCPU), integer(0), integer(2)};
  call(module_function(vm, "vm_initialization"), device, 3);
  TVMFFIObjectHandle run = module_function(vm, "main");

  /* 3. Inputs: contiguous, aligned to 64 bytes. */
  TVMFFIAny inputs[MODEL_NUM_INPUTS];
  for (int i = 0; i < MODEL_NUM_INPUTS; ++i) {
    void* data = aligned_buffer(size_of(&model_inputs[i]));
    snprintf(path, sizeof path, "%s/%s", folder, model_inputs[i].file);
    read_file(path, data, size_of(&model_inputs[i]));
    inputs[i] = tensor_of(&model_inputs[i], data);
  }

  /* 4. Run, and compare each output with what the model computed where it was compiled. */
  TVMFFIAny result = call(run, inputs, MODEL_NUM_INPUTS);
  int wrong = 0;
  for (int i = 0; i < MODEL_NUM_OUTPUTS; ++i) {
    const ModelTensor* spec = &model_outputs[i];
    void* expected = aligned_buffer(size_of(spec));
    snprintf(path, sizeof path, "%s/%s", folder, spec->file);
    read_file(path, expected, size_of(spec));
    const void* got = tensor_data(output(result, i));
    double largest = 0, difference = 0;
    for (size_t k = 0; k < count_of(spec); ++k) {
      double want = element(spec, expected, k), have = element(spec, got, k);
      largest = fmax(largest, fabs(want));
      if (!(fabs(have - want) <= difference)) difference = fabs(have - want);
    }
    int fits = difference <= MODEL_BOUND * largest;
    wrong += !fits;
    printf("%s: largest difference %.3g of %.3g: %s\n", spec->name, difference, largest,
           fits ? "as expected" : "WRONG");
    free(expected);
  }

  /* 5. Time. */
  struct timespec from, to;
  clock_gettime(CLOCK_MONOTONIC, &from);
  for (int i = 0; i < MODEL_REPEATS; ++i) release(call(run, inputs, MODEL_NUM_INPUTS));
  clock_gettime(CLOCK_MONOTONIC, &to);
  printf("%.3f ms a call, mean of %d\n",
         ((to.tv_sec - from.tv_sec) * 1e3 + (to.tv_nsec - from.tv_nsec) / 1e6) / MODEL_REPEATS,
         MODEL_REPEATS);
  return wrong != 0;
}

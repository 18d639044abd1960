// SPDX-License-Identifier: Apache-2.0
// Runs the model of this folder on its example inputs and compares. C++17 with TVM's own headers,
// libtvm_ffi and libtvm_runtime; usage: example_cpp [FOLDER]. Compiled with -DMODEL_STATIC the
// model is part of the program instead of being loaded from FOLDER/library.so.
#include <tvm/ffi/container/array.h>
#include <tvm/ffi/container/tensor.h>
#include <tvm/ffi/extra/module.h>
#include <tvm/ffi/function.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <iostream>

#include "helpers.h"
#include "model.h"

namespace ffi = tvm::ffi;

struct Aligned {  // memory of tensors: 64 bytes, as wide as any vector register
  void AllocData(DLTensor* t) { t->data = aligned_buffer(ffi::GetDataSize(*t)); }
  void FreeData(DLTensor* t) { free(t->data); }
};

ffi::Tensor read_tensor(const std::string& folder, const ModelTensor& spec) {
  ffi::Shape shape(spec.shape, spec.shape + spec.ndim);
  auto tensor = ffi::Tensor::FromNDAlloc(Aligned(), shape, spec.dtype, DLDevice{kDLCPU, 0});
  read_file((folder + "/" + spec.file).c_str(), tensor.data_ptr(), size_of(&spec));
  return tensor;
}

ffi::Module load(const std::string& folder) {
#ifdef MODEL_STATIC
  model_register();
  return ffi::Function::GetGlobalRequired("ffi.SystemLib")("").cast<ffi::Module>();
#else
  return ffi::Module::LoadFromFile(folder + "/library.so");
#endif
}

int main(int argc, char** argv) try {
  const std::string folder = argc > 1 ? argv[1] : ".";
  ffi::Module library = load(folder);
  ffi::Module vm = (*library->GetFunction("vm_load_executable"))().cast<ffi::Module>();
  (*vm->GetFunction("vm_initialization"))(int(kDLCPU), 0, 2);  // CPU 0, pooled allocator
  ffi::Function run = *vm->GetFunction("main");

  std::vector<ffi::Tensor> inputs;
  for (const ModelTensor& spec : model_inputs) inputs.push_back(read_tensor(folder, spec));
  std::vector<ffi::AnyView> arguments(inputs.begin(), inputs.end());
  ffi::Any result;
  auto from = std::chrono::steady_clock::now();
  run.CallPacked(arguments.data(), int(arguments.size()), &result);
  std::chrono::duration<double, std::milli> first = std::chrono::steady_clock::now() - from;

  std::vector<ffi::Tensor> outputs;  // one output comes bare, several as an array
  if (auto one = result.as<ffi::Tensor>()) outputs.push_back(*one);
  else for (ffi::Tensor each : result.cast<ffi::Array<ffi::Tensor>>()) outputs.push_back(each);

  int wrong = 0;
  for (size_t i = 0; i < outputs.size(); ++i) {
    ffi::Tensor expected = read_tensor(folder, model_outputs[i]);
    double largest = 0, difference = 0;
    for (size_t k = 0; k < count_of(&model_outputs[i]); ++k) {
      double want = element(&model_outputs[i], expected.data_ptr(), k);
      double error = std::abs(element(&model_outputs[i], outputs[i].data_ptr(), k) - want);
      largest = std::max(largest, std::abs(want));
      if (!(error <= difference)) difference = error;
    }
    const bool fits = difference <= MODEL_BOUND * largest;
    wrong += !fits;
    std::cout << model_outputs[i].name << ": largest difference " << difference << " of " << largest
              << (fits ? ": as expected\n" : ": WRONG\n");
  }
  std::cout << first.count() << " ms for the first call\n";
  return wrong != 0;
} catch (const std::exception& error) {
  std::cerr << error.what() << "\n";
  return 2;
}

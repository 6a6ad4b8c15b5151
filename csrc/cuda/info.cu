// SPDX-License-Identifier: MIT
// What the runtime compiled in and the driver installed say of themselves; nothing here needs a GPU.
#include <cuda_runtime.h>

#include "kernels.h"

namespace geodesic_fast {
namespace cuda {

int runtime_version() {
  int version = 0;
  return cudaRuntimeGetVersion(&version) == cudaSuccess ? version : 0;
}

int driver_version() {
  int version = 0;
  return cudaDriverGetVersion(&version) == cudaSuccess ? version : 0;
}

int device_count() {
  int count = 0;
  const cudaError_t status = cudaGetDeviceCount(&count);
  if (status != cudaSuccess) cudaGetLastError();  // a machine without a GPU is no error
  return status == cudaSuccess ? count : 0;
}

}  // namespace cuda
}  // namespace geodesic_fast

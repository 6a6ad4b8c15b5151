// SPDX-License-Identifier: MIT
// The one way a kernel is launched: on the caller's device and stream, checked.
#pragma once

#include <cuda_runtime.h>

#include <stdexcept>
#include <string>
#include <type_traits>

#include "tracks_view.h"

namespace geodesic_fast {
namespace cuda {

inline void check(cudaError_t status, const char* what) {
  if (status != cudaSuccess) {
    cudaGetLastError();  // or the next good call would report it once more
    throw std::runtime_error(std::string("CUDA: ") + what + " failed: " + cudaGetErrorString(status));
  }
}

// The caller has made `device` current for torch; this makes it current for our own copy of the runtime.
inline void use_device(int device) { check(cudaSetDevice(device), "choosing the device"); }

inline int device_limit(int device, cudaDeviceAttr attribute) {
  int value = 0;
  check(cudaDeviceGetAttribute(&value, attribute, device), "reading a device limit");
  return value;
}

template <class... Parameters, class... Arguments>
void launch(void (*kernel)(Parameters...), dim3 grid, dim3 block, size_t shared_bytes, void* stream,
            const Arguments&... arguments) {
  if (shared_bytes > 32u << 10) {  // with the static part it may pass the 48 KB that need no asking
    check(cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel),
                               cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shared_bytes)),
          "asking for shared memory");
  }
  kernel<<<grid, block, shared_bytes, static_cast<cudaStream_t>(stream)>>>(arguments...);
  check(cudaGetLastError(), "a kernel launch");
}

// Calls call(a, b) with the two as compile-time constants.
template <class Call>
void with_bools(bool a, bool b, const Call& call) {
  if (a && b) return call(std::true_type(), std::true_type());
  if (a) return call(std::true_type(), std::false_type());
  if (b) return call(std::false_type(), std::true_type());
  call(std::false_type(), std::false_type());
}

}  // namespace cuda
}  // namespace geodesic_fast

// SPDX-License-Identifier: MIT
// The one way a kernel is launched: on the caller's device and stream, checked.
#pragma once

#include <cuda_runtime.h>

#include <map>
#include <mutex>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <utility>

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

// The most dynamic shared memory that a kernel may have on the current device. It is asked for once per
// kernel and device and never lowered: host threads that launch the same kernel with other sizes meet here.
inline size_t shared_memory_limit(const void* kernel) {
  static std::mutex mutex;
  static std::map<std::pair<const void*, int>, size_t> limits;
  int device = 0;
  check(cudaGetDevice(&device), "asking for the device");
  const std::lock_guard<std::mutex> lock(mutex);
  const auto found = limits.find({kernel, device});
  if (found != limits.end()) return found->second;
  cudaFuncAttributes attributes;
  check(cudaFuncGetAttributes(&attributes, kernel), "reading a kernel's attributes");
  const int most = device_limit(device, cudaDevAttrMaxSharedMemoryPerBlockOptin) -
                   static_cast<int>(attributes.sharedSizeBytes);
  check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, most),
        "asking for shared memory");
  return limits[{kernel, device}] = static_cast<size_t>(most);
}

#ifndef GEODESIC_FAST_MAX_BLOCKS
#define GEODESIC_FAST_MAX_BLOCKS (int64_t{1} << 30)
#endif

// Blocks along x for so many pieces of work; where they are fewer, each block takes a piece after the other.
inline dim3 grid_of(int64_t work, int64_t per_block = 1) {
  const int64_t blocks = (work + per_block - 1) / per_block, most = GEODESIC_FAST_MAX_BLOCKS;
  return dim3(static_cast<unsigned>(blocks < most ? blocks : most));
}

template <class... Parameters, class... Arguments>
void launch(void (*kernel)(Parameters...), dim3 grid, dim3 block, size_t shared_bytes, void* stream,
            const Arguments&... arguments) {
  const void* const function = reinterpret_cast<const void*>(kernel);
  if (shared_bytes > 0 && shared_bytes > shared_memory_limit(function)) {
    throw std::runtime_error("CUDA: a kernel needs " + std::to_string(shared_bytes) +
                             " bytes of dynamic shared memory, this device has " +
                             std::to_string(shared_memory_limit(function)));
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

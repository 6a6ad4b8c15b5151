// SPDX-License-Identifier: MIT
#include "device.h"

#include <dlfcn.h>

#include <algorithm>
#include <cstdlib>
#include <map>
#include <mutex>
#include <numeric>

#include "cuda_runtime.h"

namespace cuda_on_cpu {
namespace {

struct Limits {
  const char* name;
  int shared_optin;  // bytes a block may ask for
};
constexpr Limits kLimits[] = {{"sm_75", 65536},  {"sm_80", 166912},  {"sm_86", 101376}, {"sm_89", 101376},
                              {"sm_90", 232448}, {"sm_100", 232448}, {"sm_120", 101376}};
constexpr size_t kSharedUnasked = 48u << 10;

std::string setting(const char* name, const char* otherwise) {
  const char* value = getenv(name);
  return value == nullptr ? otherwise : value;
}
// CUDA_ON_CPU_SHARED, bytes, takes the place of what CUDA_ON_CPU_ARCH has.
int shared_optin() {
  const std::string bytes = setting("CUDA_ON_CPU_SHARED", "");
  if (!bytes.empty()) return std::stoi(bytes);
  const std::string name = setting("CUDA_ON_CPU_ARCH", "sm_90");
  for (const Limits& limits : kLimits) {
    if (name == limits.name) return limits.shared_optin;
  }
  abort();
}

std::mutex of_asked;
std::map<const void*, size_t> asked;  // shared memory by kernel
thread_local cudaError_t last = cudaSuccess;
thread_local std::string last_message;

// Like a driver's, what a launch may have is what was asked for last.
size_t allowed_shared(const void* kernel) {
  const std::lock_guard<std::mutex> lock(of_asked);
  const auto found = asked.find(kernel);
  return found == asked.end() ? kSharedUnasked : found->second;
}

}  // namespace

bool may_launch(const void* kernel, dim3 grid, dim3 block, size_t shared_bytes) {
  const size_t threads = static_cast<size_t>(block.x) * block.y * block.z;
  const size_t allowed = allowed_shared(kernel);
  const bool good = threads > 0 && threads <= 1024 && grid.x > 0 && grid.y > 0 && grid.z > 0 &&
                    grid.x <= 0x7fffffffu && grid.y <= 65535 && grid.z <= 65535 && shared_bytes <= allowed;
  if (!good) {
    last = cudaErrorInvalidConfiguration;
    last_message = "invalid configuration argument: grid " + std::to_string(grid.x) + " x " +
                   std::to_string(grid.y) + ", block " + std::to_string(threads) + ", shared " +
                   std::to_string(shared_bytes);
  }
  return good;
}
void launch_failed(const std::string& message) {
  last = cudaErrorLaunchFailure;
  last_message = message;
}
int64_t max_blocks() { return std::stoll(setting("CUDA_ON_CPU_BLOCKS", "1073741824")); }
const char* module_base() {
  Dl_info info;
  return dladdr(reinterpret_cast<const void*>(&module_base), &info) != 0
             ? static_cast<const char*>(info.dli_fbase)
             : nullptr;
}

Orders::Orders(size_t threads) : warps((threads + kWarpSize - 1) / kWarpSize), lanes(kWarpSize) {
  std::iota(warps.begin(), warps.end(), 0);
  std::iota(lanes.begin(), lanes.end(), 0);
  const std::string order = setting("CUDA_ON_CPU_ORDER", "forward");
  reverse_ = order == "reverse";
  shuffled_ = !reverse_ && order != "forward";
  if (reverse_) {
    std::reverse(warps.begin(), warps.end());
    std::reverse(lanes.begin(), lanes.end());
  } else if (shuffled_) {
    random_.seed(static_cast<unsigned>(std::stoul(order)));
  }
}
int64_t Orders::next_block(int64_t place, int64_t blocks) {
  if (reverse_) return blocks - 1 - place;
  if (!shuffled_) return place;
  std::shuffle(warps.begin(), warps.end(), random_);
  std::shuffle(lanes.begin(), lanes.end(), random_);
  int64_t step = blocks / 2 + 1;  // with no divisor in common all places are visited once
  while (std::gcd(step, blocks) != 1) ++step;
  return place * step % blocks;
}

}  // namespace cuda_on_cpu

using namespace cuda_on_cpu;

cudaError_t cudaGetLastError() {
  const cudaError_t error = last;
  last = cudaSuccess;
  return error;
}
const char* cudaGetErrorString(cudaError_t error) {
  return error == cudaErrorInvalidValue ? "invalid argument" : last_message.c_str();
}
cudaError_t cudaSetDevice(int device) { return device == 0 ? cudaSuccess : cudaErrorInvalidValue; }
cudaError_t cudaGetDevice(int* device) {
  *device = 0;
  return cudaSuccess;
}
cudaError_t cudaGetDeviceCount(int* count) {
  *count = 1;
  return cudaSuccess;
}
cudaError_t cudaRuntimeGetVersion(int* version) {
  *version = 13000;
  return cudaSuccess;
}
cudaError_t cudaDriverGetVersion(int* version) { return cudaRuntimeGetVersion(version); }
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int) {
  *value = attribute == cudaDevAttrMultiProcessorCount ? std::stoi(setting("CUDA_ON_CPU_SMS", "3"))
                                                       : shared_optin();
  return cudaSuccess;
}
cudaError_t cudaFuncGetAttributes(cudaFuncAttributes* attributes, const void*) {
  attributes->sharedSizeBytes = 0;
  return cudaSuccess;
}
cudaError_t cudaFuncSetAttribute(const void* kernel, cudaFuncAttribute, int value) {
  if (value < 0 || value > shared_optin()) return cudaErrorInvalidValue;
  const std::lock_guard<std::mutex> lock(of_asked);
  asked[kernel] = static_cast<size_t>(value);
  return cudaSuccess;
}

// SPDX-License-Identifier: MIT
#include "chosen.h"

#include <cstdlib>
#include <stdexcept>
#include <string>

namespace geodesic_fast {
namespace {

struct Choice {
  const char* name;
  const Kernels& kernels;
};

// What the processor has, or the lesser one that the environment asks for.
Choice choose() {
#ifdef GEODESIC_FAST_X86
  const char* asked = std::getenv("GEODESIC_FAST_CPU");
  const std::string most = asked == nullptr ? "" : asked;
  const bool has_avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  const bool has_avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                          __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
  if (has_avx2 && has_avx512 && most != "baseline" && most != "avx2") return {"avx512", avx512::kKernels};
  if (has_avx2 && most != "baseline") return {"avx2", avx2::kKernels};
#endif
  return {"baseline", baseline::kKernels};
}

const Choice kCpu = choose();

}  // namespace

#ifdef GEODESIC_FAST_CUDA_ARCHS
namespace cuda {
const Kernels kKernels = {GEODESIC_FAST_KERNELS(GEODESIC_FAST_ENTRY)};
}
const char* cuda_architectures() { return GEODESIC_FAST_CUDA_ARCHS; }
#else
namespace cuda {  // what a build without CUDA answers instead
int64_t line_deviation_workspace(const TracksView&, bool, int) { return 0; }
int runtime_version() { return 0; }
int driver_version() { return 0; }
int device_count() { return 0; }
}  // namespace cuda
const char* cuda_architectures() { return ""; }
#endif

const Kernels& kernels_at(const Place& place) {
  if (place.device < 0) return kCpu.kernels;
#ifdef GEODESIC_FAST_CUDA_ARCHS
  return cuda::kKernels;
#else
  throw std::runtime_error("this build of geodesic_fast has no CUDA kernels");
#endif
}

const char* instruction_set() { return kCpu.name; }

}  // namespace geodesic_fast

// SPDX-License-Identifier: MIT
// Kernels with a bug each, which the emulator must find, and some without one. `planted NAME` runs one and
// says what was found; `planted` lists the names, each with what finds it.
#include <cuda_fp16.h>
#include <cuda_pipeline_primitives.h>
#include <cuda_runtime.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace {

constexpr int kThreads = 128;

__global__ void sound(const float* in, float* out) {
  __shared__ float copy[kThreads];
  __shared__ __align__(16) float late[kThreads];
  extern __shared__ __align__(16) char dynamic[];
  float* landing = reinterpret_cast<float*>(dynamic);
  __pipeline_memcpy_async(landing + threadIdx.x, in + threadIdx.x, 4);
  __pipeline_commit();
  __pipeline_wait_prior(0);
  copy[threadIdx.x] = landing[threadIdx.x];
  late[threadIdx.x] = 0;
  __syncthreads();
  float sum = copy[kThreads - 1 - threadIdx.x] + late[threadIdx.x ^ 1];
  for (int lane = 16; lane > 0; lane /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, lane);
  out[threadIdx.x] = sum;
}
__global__ void no_wait(const float* in, float* out) {
  extern __shared__ __align__(16) char dynamic[];
  float* landing = reinterpret_cast<float*>(dynamic);
  __pipeline_memcpy_async(landing + threadIdx.x, in + threadIdx.x, 4);
  __pipeline_commit();
  out[threadIdx.x] = landing[threadIdx.x];
  __pipeline_wait_prior(0);
}
__global__ void no_barrier(const float* in, float* out) {
  __shared__ float copy[kThreads];
  copy[threadIdx.x] = in[threadIdx.x];
  out[threadIdx.x] = copy[kThreads - 1 - threadIdx.x];
}
__global__ void no_syncwarp(const float* in, float* out) {
  __shared__ float copy[kThreads];
  copy[threadIdx.x] = in[threadIdx.x];
  const float other = __shfl_xor_sync(0xffffffffu, in[threadIdx.x], 1);  // orders no memory
  out[threadIdx.x] = copy[threadIdx.x ^ 1] + 0 * other;
}
__global__ void not_initialised(const float* in, float* out) {
  __shared__ float copy[kThreads];
  if (in[0] > 1e30f) copy[threadIdx.x] = 0;
  out[threadIdx.x] = in[threadIdx.x] + copy[threadIdx.x];
}
__global__ void two_barriers(const float* in, float* out) {
  if (threadIdx.x < 64) {
    __syncthreads();
  } else {
    __syncthreads();
  }
  out[threadIdx.x] = in[threadIdx.x];
}
__global__ void early_exit(const float* in, float* out) {
  out[threadIdx.x] = in[threadIdx.x];
  if (threadIdx.x == 5) return;
  __syncthreads();
}
__global__ void half_a_shuffle(const float* in, float* out) {
  float value = in[threadIdx.x];
  if (threadIdx.x % 2 == 0) value += __shfl_xor_sync(0xffffffffu, value, 2);
  out[threadIdx.x] = value;
}
__global__ void not_aligned(const float* in, float* out) {
  extern __shared__ __align__(16) char dynamic[];
  float* landing = reinterpret_cast<float*>(dynamic);
  if (threadIdx.x == 0) __pipeline_memcpy_async(landing, in + 1, 16);
  __pipeline_commit();
  __pipeline_wait_prior(0);
  out[threadIdx.x] = in[threadIdx.x];
}
__global__ void beyond_dynamic(const float* in, float* out) {
  extern __shared__ __align__(16) char dynamic[];
  float* landing = reinterpret_cast<float*>(dynamic);
  landing[threadIdx.x + 1] = in[threadIdx.x];
  out[threadIdx.x] = landing[threadIdx.x + 1];
}
__global__ void beyond_static(const float* in, float* out) {
  __shared__ float copy[kThreads];
  copy[threadIdx.x + 1] = in[threadIdx.x];
  copy[0] = 0;
  __syncthreads();
  out[threadIdx.x] = copy[threadIdx.x];
}
__global__ void beyond_global(const float* in, float* out) { out[threadIdx.x] = in[threadIdx.x + 1]; }

struct Plant {
  const char *name, *found_by;  // nothing, values, emulator, address, thread
  void (*kernel)(const float*, float*);
};
const Plant kPlants[] = {{"sound", "nothing", sound},
                         {"no_wait", "values", no_wait},
                         {"no_barrier", "values thread", no_barrier},
                         {"no_syncwarp", "thread", no_syncwarp},
                         {"not_initialised", "values", not_initialised},
                         {"two_barriers", "emulator", two_barriers},
                         {"early_exit", "emulator", early_exit},
                         {"half_a_shuffle", "emulator", half_a_shuffle},
                         {"not_aligned", "emulator", not_aligned},
                         {"beyond_dynamic", "address", beyond_dynamic},
                         {"beyond_static", "address thread", beyond_static},
                         {"beyond_global", "address thread", beyond_global}};

}  // namespace

int main(int count, char** words) {
  for (const Plant& plant : kPlants) {
    if (count < 2) {
      printf("%s %s\n", plant.name, plant.found_by);
      continue;
    }
    if (strcmp(plant.name, words[1]) != 0) continue;
    float* in = static_cast<float*>(malloc(kThreads * sizeof(float)));
    float* out = static_cast<float*>(malloc(kThreads * sizeof(float)));
    for (int i = 0; i < kThreads; ++i) in[i] = static_cast<float>(i);
    const auto kernel = plant.kernel;
    kernel<<<dim3(1), dim3(kThreads), kThreads * sizeof(float), static_cast<cudaStream_t>(nullptr)>>>(in,
                                                                                                      out);
    const cudaError_t error = cudaGetLastError();
    bool number = true;
    for (int i = 0; i < kThreads && error == cudaSuccess; ++i) number = number && out[i] == out[i];
    printf("%s: %s\n", plant.name,
           error != cudaSuccess ? cudaGetErrorString(error)
           : number             ? "found nothing"
                                : "values: NaN");
    free(in), free(out);
    return error != cudaSuccess || !number;
  }
  return 0;
}

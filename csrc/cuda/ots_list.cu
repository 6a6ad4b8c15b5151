// SPDX-License-Identifier: MIT
// Which columns of a row come near the potentials: the neighbours of a start, and the candidates of a
// certificate.
#include "ots.h"

#include "kernels.h"
#include "ots_row.cuh"

namespace geodesic_fast {
namespace cuda {
namespace {

constexpr int kHeld = 2048;  // columns a block holds in shared memory before it has to read the row again
static_assert(kRowThreads % kRowParts == 0, "a thread's columns belong to one part of the row");

struct RowList {
  const float* s;
  const ListArgs& args;
  float p;
  int64_t cols;

  __device__ __forceinline__ float at(int64_t j) const { return (s[j] - args.b[j]) + args.q[j] * p; }
};

// Keeps column j unless `most` are kept already; returns nothing, counts always.
__device__ __forceinline__ void keep(int64_t j, int most, int* held, unsigned long long* found) {
  const unsigned long long place = atomicAdd(found, 1ull);
  if (place < static_cast<unsigned long long>(most)) held[place] = static_cast<int>(j);
}

// The largest t of each part of the row; with `collect`, columns at or above `low` are kept on the way.
__device__ __forceinline__ void part_maxima(const RowList& row, bool collect, float low, float* part,
                                            int* held, unsigned long long* found) {
  __shared__ float tops[kRowThreads];
  float top = kLowest;
  for (int64_t j = threadIdx.x; j < row.cols; j += kRowThreads) {
    const float value = row.at(j);
    top = fmaxf(top, value);
    if (collect && value >= low) keep(j, kHeld, held, found);
  }
  tops[threadIdx.x] = top;
  __syncthreads();
  if (threadIdx.x < kRowParts) {
    for (int k = threadIdx.x + kRowParts; k < kRowThreads; k += kRowParts) top = fmaxf(top, tops[k]);
    part[threadIdx.x] = top;
  }
  __syncthreads();
}

// Writes the part that has k - 1 larger ones before it; equal parts are ordered by place.
__device__ __forceinline__ void kth_largest(const float* part, int k, float* out) {
  if (threadIdx.x < kRowParts) {
    int before = 0;
    for (int other = 0; other < kRowParts; ++other) {
      const bool ahead = other < static_cast<int>(threadIdx.x);
      before += part[other] > part[threadIdx.x] || (ahead && part[other] == part[threadIdx.x]);
    }
    if (before == k - 1) *out = part[threadIdx.x];
  }
  __syncthreads();
}

// Columns at or above the threshold, starting at a place that differs from row to row.
template <class Take>
__device__ __forceinline__ void over_listed(const RowList& row, float threshold, const Take& take) {
  const int64_t turn = row.args.limit > 0 ? blockIdx.x * static_cast<int64_t>(row.args.limit) % row.cols : 0;
  for (int64_t k = threadIdx.x; k < row.cols; k += kRowThreads) {
    const int64_t j = k + turn < row.cols ? k + turn : k + turn - row.cols;
    if (row.at(j) >= threshold) take(j);
  }
}

// Memory: reads S once where the threshold is known beforehand (theta = keep = 0, the certificate), else
// twice, and once more for a row that lists over kHeld columns. Work: three operations a pair. Numbers:
// float32; the caller's p and q carry the bound on its rounding. Bound: memory.
__global__ void __launch_bounds__(kRowThreads) list_rows(ProductTile tile, ListArgs args) {
  __shared__ float part[kRowParts], best, threshold;
  __shared__ int held[kHeld];
  __shared__ unsigned long long found, start, written;
  const int64_t i = blockIdx.x;
  const RowList row{tile.product + i * tile.stride, args, args.p[i], tile.cols};
  const float low = args.low[i];
  const bool known = args.theta == 0.0f && args.keep == 0 && args.limit == 0;
  if (threadIdx.x == 0) found = written = 0;
  __syncthreads();
  part_maxima(row, known, low, part, held, &found);
  kth_largest(part, 1, &best);
  if (args.keep > 0) {
    kth_largest(part, args.keep, &threshold);
  } else if (threadIdx.x == 0) {
    threshold = best > low ? low + args.theta * (best - low) : low;
  }
  __syncthreads();
  if (!known && best >= threshold) {
    const int most = args.limit > 0 && args.limit < kHeld ? args.limit : kHeld;
    over_listed(row, threshold, [&](int64_t j) { keep(j, most, held, &found); });
    __syncthreads();
  }
  if (threadIdx.x == 0) {
    const unsigned long long limit = args.limit > 0 ? args.limit : found;
    found = found < limit ? found : limit;
    start = atomicAdd(reinterpret_cast<unsigned long long*>(args.used), found);
    args.best[i] = best;
    args.start[i] = static_cast<int64_t>(start);
    args.count[i] = static_cast<int64_t>(found);
  }
  __syncthreads();
  if (start + found > static_cast<unsigned long long>(args.capacity)) return;
  if (found <= kHeld) {
    for (int k = threadIdx.x; k < static_cast<int>(found); k += kRowThreads)
      args.columns[start + k] = held[k];
    return;
  }
  over_listed(row, threshold, [&](int64_t j) {
    const unsigned long long place = atomicAdd(&written, 1ull);
    if (place < found) args.columns[start + place] = static_cast<int>(j);
  });
}

}  // namespace

void ots_list(const ListArgs& args, const Place& place) {
  const ProductTile& tile = args.tile;
  if (tile.rows == 0) return;
  use_device(place.device);
  launch(list_rows, dim3(static_cast<unsigned>(tile.rows)), dim3(kRowThreads), 0, place.stream, tile, args);
}

}  // namespace cuda
}  // namespace geodesic_fast

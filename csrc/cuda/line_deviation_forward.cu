// SPDX-License-Identifier: MIT
// line_deviation, forward: who computes the products of steps, and the sum of what each block found.
// Memory: the tracks are read once up to 80 steps, else each block of 64 steps once for every other block.
// Work:   n^2 / 2 multiply-adds a feature on tensor cores, 4 times that with both parts of exact steps; n^2
//         elsewhere.
// Numbers: cosines in float32 or wider, their sums over tracks in float64, added in a fixed order.
// Bound:  read bandwidth up to 80 steps in half precision, multiply-adds above and in float32 and float64.
#include "kernels.h"
#include "line_deviation_gram.cuh"

namespace geodesic_fast {
namespace cuda {
namespace {

constexpr int kSumThreads = 256;
constexpr int64_t kMinTensorFeatures = 128, kMinTensorSteps = 8, kMostStepsAtOnce = 80;

GramPlan plan_of(const TracksView& tracks, int device) {
  const int64_t n = tracks.steps();
  GramPlan plan;
  plan.tensor_cores = bytes_of(tracks.dtype) == 2 && tracks.features >= kMinTensorFeatures &&
                      n >= kMinTensorSteps && rows_on_16_bytes(tracks);
  if (plan.tensor_cores) {
    plan.block = n <= kMostStepsAtOnce ? static_cast<int>((n + 15) / 16 * 16) : 64;
  } else {
    plan.block = n <= 16 ? 16 : n <= 32 ? 32 : 64;
  }
  plan.blocks = (n + plan.block - 1) / plan.block;
  const int64_t each = plan.tensor_cores ? (plan.block <= 48 ? 4 : plan.block == 64 ? 3 : 2) : 2;
  const int64_t resident = each * device_limit(device, cudaDevAttrMultiProcessorCount);
  const int64_t wanted = (resident + plan.pairs() - 1) / plan.pairs();
  plan.parts = wanted < tracks.tracks ? wanted : tracks.tracks;
  return plan;
}

int64_t bytes_of_roots(const TracksView& tracks, const GramPlan& plan) {
  const int64_t bytes = tracks.dtype == DType::kFloat64 ? 8 : 4;
  return plan.blocks > 1 ? (tracks.tracks * tracks.steps() * bytes + 7) / 8 * 8 : 0;
}
int64_t slab_entries(const GramPlan& plan) { return plan.pairs() * plan.parts * plan.block * plan.block; }

__global__ void __launch_bounds__(kSumThreads) add_slabs(const __grid_constant__ GramWork work) {
  const int64_t n = work.args.tracks.steps(), block = work.plan.block;
  const int64_t index = static_cast<int64_t>(blockIdx.x) * kSumThreads + threadIdx.x, k = index / n,
                l = index % n;
  if (k >= n || l < k) return;
  const int64_t entry = k % block * block + l % block;
  const int64_t first = work.plan.pair_of(k / block, l / block) * work.plan.parts;
  double sum = 0;
  int64_t count = work.args.tracks.tracks;
  for (int64_t part = 0; part < work.plan.parts; ++part) {
    sum += work.sums[(first + part) * block * block + entry];
    count -= work.missing[(first + part) * block * block + entry];
  }
  work.args.sums[k * n + l] = work.args.sums[l * n + k] = sum;
  work.args.counts[k * n + l] = work.args.counts[l * n + k] = count;
}

}  // namespace

int64_t line_deviation_workspace(const TracksView& tracks, bool each, int device) {
  const GramPlan plan = plan_of(tracks, device);
  return bytes_of_roots(tracks, plan) + (each ? 0 : slab_entries(plan) * 16);
}

void line_deviation_forward(const LineDeviation& args, const Place& place) {
  if (args.tracks.tracks == 0) return;
  use_device(place.device);
  GramWork work;
  work.args = args;
  work.plan = plan_of(args.tracks, place.device);
  work.roots = args.workspace;
  work.sums =
      reinterpret_cast<double*>(static_cast<char*>(args.workspace) + bytes_of_roots(args.tracks, work.plan));
  work.missing = reinterpret_cast<int64_t*>(work.sums + slab_entries(work.plan));
  work.plan.tensor_cores ? tensor_gram(work, place.device, place.stream)
                         : simt_gram(work, place.device, place.stream);
  if (args.sums == nullptr) return;
  const int64_t entries = args.tracks.steps() * args.tracks.steps();
  launch(add_slabs, dim3(static_cast<unsigned>((entries + kSumThreads - 1) / kSumThreads)), dim3(kSumThreads),
         0, place.stream, work);
}

}  // namespace cuda
}  // namespace geodesic_fast

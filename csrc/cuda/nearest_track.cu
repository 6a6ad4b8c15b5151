// SPDX-License-Identifier: MIT
// nearest_track: for rows of tracks, against all.
// Memory: the distances of the rows, written and read twice, beside what track_distance reads.
// Work:   (n+1) d multiply-adds a pair, each pair twice.
// Numbers: distances as track_distance gives them only rule pairs out, with a bound on their rounding; the
//          others are measured in float64 from the coordinates.
// Bound:  multiply-adds.
#include "nearest_track.h"

#include "kernels.h"
#include "pair_distance.cuh"

namespace geodesic_fast {
namespace cuda {
namespace {

constexpr int kThreads = 256, kWarps = kThreads / kWarp;

struct Neighbour {
  double distance;
  int64_t index;
  int32_t layer;

  __device__ __forceinline__ bool loses_to(double other, int64_t other_index) const {
    return other < distance || (other == distance && (index < 0 || other_index < index));
  }
};

template <class T, class Acc = typename AccOf<T>::type>
struct NearestOfRow {
  const DeviceTracks& tracks;
  const NearestTrack& args;
  int64_t i;

  __device__ __forceinline__ const Acc* distances() const {
    return static_cast<const Acc*>(args.workspace) + (i - args.row_begin) * tracks.view.tracks;
  }
  __device__ __forceinline__ bool counts(int64_t j) const {
    if (j >= tracks.view.tracks || j == i || args.pairs.kinds[j] == kNaNTrack) return false;
    return args.labels == nullptr || args.labels[i] != args.labels[j];
  }

  __device__ __forceinline__ Acc least(Acc* buffer) const {
    Acc least = INFINITY;
    for (int64_t j = threadIdx.x; j < tracks.view.tracks; j += kThreads) {
      const Acc distance = distances()[j];
      if (distance < least && counts(j)) least = distance;
    }
    return -team_max(-least, buffer);
  }

  // The nearest of the columns of one warp, those beyond `limit` left out.
  __device__ __forceinline__ Neighbour search(Acc limit) const {
    Neighbour nearest{INFINITY, -1, -1};
    for (int64_t first = threadIdx.x / kWarp * kWarp; first < tracks.view.tracks; first += kThreads) {
      const int64_t mine = first + threadIdx.x % kWarp;
      unsigned left = __ballot_sync(0xffffffffu, counts(mine) && distances()[mine] <= limit);
      while (left != 0) {
        const int64_t j = first + __ffs(static_cast<int>(left)) - 1;
        left &= left - 1;
        const TrackPair<T> pair{tracks, tracks, tracks.view.offset(i), tracks.view.offset(j)};
        const bool infinite = (args.pairs.kinds[i] | args.pairs.kinds[j]) != kFiniteTrack;
        const ClosestLayer found = pair.closest({nearest.distance, -1}, infinite);
        if (found.layer >= 0 && nearest.loses_to(found.distance, j))
          nearest = {found.distance, j, found.layer};
      }
    }
    return nearest;
  }
};

template <class T, class Acc = typename AccOf<T>::type>
__global__ void __launch_bounds__(kThreads, 2)
    nearest_kernel(const __grid_constant__ DeviceTracks tracks, const __grid_constant__ NearestTrack args) {
  __shared__ Acc buffer[kMaxWarps];
  __shared__ Neighbour found[kWarps];
  for (int64_t i = args.row_begin + blockIdx.x; i < args.row_end; i += gridDim.x) {
    if (args.pairs.kinds[i] == kNaNTrack) continue;
    const NearestOfRow<T> row{tracks, args, i};
    const Acc least = row.least(buffer), slack = 2 * pair_rounding<Acc>(tracks.view.features);
    const Acc limit =
        least * (1 + slack) + (sizeof(Acc) == 8 ? Acc(0) : Acc(3e-45f));  // steps of tiny floats
    const Neighbour mine = row.search(limit);
    __syncthreads();  // the row before has been read
    if (threadIdx.x % kWarp == 0) found[threadIdx.x / kWarp] = mine;
    __syncthreads();
    if (threadIdx.x != 0) continue;
    Neighbour nearest = found[0];
    for (int warp = 1; warp < kWarps; ++warp) {
      const Neighbour& other = found[warp];
      if (other.index >= 0 && nearest.loses_to(other.distance, other.index)) nearest = other;
    }
    args.distance[i] = nearest.distance;
    args.index[i] = nearest.index;
    args.layer[i] = nearest.layer;
  }
}

}  // namespace

void nearest_track(const NearestTrack& args, const Place& place) {
  const int64_t rows = args.row_end - args.row_begin;
  if (rows == 0) return;
  use_device(place.device);
  distance_rows({args.pairs, false, args.row_begin, args.row_end, args.row_begin, args.workspace, nullptr},
                place.device, place.stream);
  with_dtype(args.pairs.tracks.dtype, [&](auto zero) {
    launch(nearest_kernel<decltype(zero)>, grid_of(rows), dim3(kThreads), 0, place.stream,
           on_device(args.pairs.tracks), args);
  });
}

}  // namespace cuda
}  // namespace geodesic_fast

// SPDX-License-Identifier: MIT
// lss and track_geometry, forward, for tracks up to kWidestRow features; wider ones: ..._wide.cu.
// Memory: the tracks are read once, (n+1) m d values; a ring of up to 4 points per track in shared memory.
// Work:   5 operations per value for lss, 7 for all fields.
// Numbers: float32 sums in registers (float64 for float64 tracks), in runs of kRun directions; float64 for
//         what has one value per step. Products that join a square are fused by name: lss and track_geometry
//         agree to the last bit whatever the compiler does.
// Bound:  read bandwidth; one barrier per step, hidden by the other blocks and by the points in flight.
#include "geometry_sums.h"
#include "kept_length.cuh"
#include "kernels.h"
#include "track_ring.cuh"
#include "wide.cuh"

namespace geodesic_fast {
namespace cuda {
namespace {

// The sums of the runs of a deep track, in shared memory that each thread has for itself: a plain running sum
// over thousands of directions would lose what the gradient needs.
template <class Acc, int kCount>
struct RunTotals {
  Acc* mine;
  bool deep;

  __device__ __forceinline__ RunTotals(char* shared, int64_t steps)
      : mine(reinterpret_cast<Acc*>(shared) + threadIdx.y * blockDim.x + threadIdx.x), deep(steps > kRun) {}

  static size_t bytes(dim3 team, int64_t steps) {
    return steps > kRun ? static_cast<size_t>(team.x) * team.y * kCount * sizeof(Acc) : 0;
  }
  __device__ __forceinline__ Acc& slot(int i) const { return mine[i * (blockDim.x * blockDim.y)]; }
  __device__ __forceinline__ Acc at(int i) const { return deep ? slot(i) : Acc(0); }

  __device__ __forceinline__ void clear() const {
    if (!deep) return;
#pragma unroll
    for (int i = 0; i < kCount; ++i) slot(i) = 0;
  }
  __device__ __forceinline__ void take(Acc (&run)[kCount]) const {
    if (!deep) return;
#pragma unroll
    for (int i = 0; i < kCount; ++i) slot(i) += run[i], run[i] = 0;
  }
};

// What one thread of a team carries along a track.
template <class T, bool kAligned, bool kAll>
struct ForwardTeam {
  // all fields of float64 tracks take more registers than a wide slice leaves
  static constexpr int kBytes = kAligned && !(kAll && sizeof(T) == 8) ? kWide : kNarrow;
  using Ring = TrackRing<T, kAligned, kBytes>;
  using Acc = typename Ring::Acc;
  static constexpr int kSums = kAll ? 2 : 1;
  static constexpr int kCount = Ring::kCount;

  const DeviceTracks& tracks;
  const GeometryForward& args;
  Ring ring;
  TeamSum<Acc, kSums> team_sum;
  Acc* max_buffer;
  GeometrySums& sums;  // in shared memory, kept by the first thread
  RunTotals<Acc, kCount> totals_of_runs;

  Acc direction_sum[kCount];  // of u_1 + ... + u_l, without the last, those since the last run ended
  Acc step[kCount];           // the last step that has a direction
  Acc step_length;            // of the row in `step`
  Acc pending;                // what makes a direction of it, or 0 once it has joined the sum
  bool paired;                // a step with a direction has been seen

  __device__ __forceinline__ void start(int64_t offset) {
    if (threadIdx.x == 0) sums = GeometrySums();
    pending = 0;
    step_length = 1;
    paired = false;
#pragma unroll
    for (int i = 0; i < kCount; ++i) direction_sum[i] = step[i] = 0;
    totals_of_runs.clear();
    ring.start(tracks, offset);
  }

  __device__ __forceinline__ void take_step(int64_t layer, int64_t offset, int64_t track) {
    ring.advance(tracks, layer, offset);
    Acc v[kCount] = {};
    Acc totals[kSums] = {};
    ring.for_each([&](int i, Acc now, Acc before) {
      v[i] = now - before;
      totals[0] = fma(v[i], v[i], totals[0]);
      if constexpr (kAll) totals[kSums - 1] += v[i] * step[i];
    });
#pragma unroll
    for (int i = 0; i < kCount; ++i) direction_sum[i] += direction(step[i]);
    if (layer % kRun == 0) totals_of_runs.take(direction_sum);
    team_sum(totals);
    Length length;
    double cosine;
    Acc root, scale;
    if (is_safe_square(totals[0])) {  // the same in every thread of the team
      root = sqrt(totals[0]);
      length = Length(root);
      scale = 1 / root;
      cosine = totals[kSums - 1] / (root * step_length);  // exactly 1 or -1 along an axis
    } else {
      length = scaled_step(v, &root, &scale, &cosine);
    }
    const bool directed = length.value != 0 || args.zero_step == ZeroStep::kKeep;
    double apart = 0;
    if (kAll && directed && paired && is_flat(cosine)) apart = apart_from_last(v, scale, cosine < 0);
    if (directed) {
#pragma unroll
      for (int i = 0; i < kCount; ++i) step[i] = v[i];
      step_length = length.value != 0 ? root : Acc(1);
    }
    pending = directed ? scale : Acc(0);
    if (threadIdx.x == 0) {
      if (args.lengths != nullptr) {
        static_cast<Acc*>(args.lengths)[(layer - 1) * tracks.view.tracks + track] =
            KeptLength<Acc>::keep(length);
      }
      if constexpr (kAll) {
        sums.add_length(length);
        if (directed && paired) sums.add_cosine(cosine, apart);
      } else {
        ++sums.steps;
        sums.zero_steps += length.value == 0;
      }
    }
    paired = paired || directed;
  }

  // |u - w| of the directions of this step and the last one, or |u + w| if they point apart.
  __device__ __forceinline__ double apart_from_last(const Acc (&v)[kCount], Acc scale, bool opposite) {
    const Acc last_scale = (opposite ? -1 : 1) / step_length;
    Acc totals[kSums] = {};
#pragma unroll
    for (int i = 0; i < kCount; ++i) {
      const Acc off = v[i] * scale - step[i] * last_scale;
      totals[0] = fma(off, off, totals[0]);
    }
    team_sum(totals);
    return sqrt(static_cast<double>(totals[0]));
  }

  // v / step_length to the last bit: unit steps along an axis must cancel exactly.
  __device__ __forceinline__ Acc direction(Acc v) const {
    const Acc u = v * pending;
    return fma(fma(-u, step_length, v), pending, u);
  }

  // A step too long, too short or too broken for its square: v in units of a power of two, which cost no
  // rounding.
  __device__ __forceinline__ Length scaled_step(Acc (&v)[kCount], Acc* root, Acc* scale, double* cosine) {
    double unit = 1;
    Acc largest = team_max(largest_of(v), max_buffer);
    if (isinf(largest)) {  // the difference overflowed, half of it does not
      unit = 2;
      ring.for_each([&](int i, Acc now, Acc before) { v[i] = now * Acc(0.5) - before * Acc(0.5); });
      largest = team_max(largest_of(v), max_buffer);
    }
    const bool finite = isfinite(largest);
    const int power = finite && largest > 0 ? ilogb(largest) : 0;
    Acc totals[kSums] = {};
#pragma unroll
    for (int i = 0; i < kCount; ++i) {
      v[i] = finite ? ldexp(v[i], -power) : Acc(NAN);
      totals[0] = fma(v[i], v[i], totals[0]);
      if constexpr (kAll) totals[kSums - 1] += v[i] * (step[i] / step_length);
    }
    team_sum(totals);
    *root = sqrt(totals[0]);
    *scale = largest == 0 ? Acc(0) : 1 / *root;
    *cosine = static_cast<double>(totals[kSums - 1] * *scale);
    return Length::product(ldexp(1.0, power), *root, unit);
  }

  static __device__ __forceinline__ Acc largest_of(const Acc (&v)[kCount]) {
    Acc largest = 0;
#pragma unroll
    for (int i = 0; i < kCount; ++i) largest = larger(largest, fabs(v[i]));
    return largest;
  }

  __device__ __forceinline__ void finish(int64_t track, int64_t offset) {
    const int64_t m = tracks.view.tracks, d = tracks.view.features;
    Acc totals[kSums] = {};
    ring.for_owned([&](int i, int feature) {
      const Acc s = totals_of_runs.at(i) + (direction_sum[i] + direction(step[i]));
      totals[0] = fma(s, s, totals[0]);
      if (args.direction_sum != nullptr) static_cast<Acc*>(args.direction_sum)[track * d + feature] = s;
    });
    const Length reach = kAll ? team_chord(ring, tracks, offset, team_sum, max_buffer) : Length();
    team_sum(totals);
    if (threadIdx.x != 0) return;
    Acc* fields = static_cast<Acc*>(args.fields) + track;
    const double resultant = sqrt(static_cast<double>(totals[0]));
    if constexpr (kAll) {
      write_fields(sums, resultant, reach, args.zero_step, fields, m);
      args.zero_steps[track] = sums.zero_steps;
    } else {
      const double counted = direction_count(sums.steps, sums.zero_steps, args.zero_step);
      *fields = static_cast<Acc>(lss_of(counted, sums.steps - sums.zero_steps, resultant));
    }
  }
};

template <class T, bool kAligned, bool kAll>
__global__ void __launch_bounds__(kMaxTeam, 1)
    forward_kernel(const __grid_constant__ DeviceTracks tracks, const __grid_constant__ GeometryForward args,
                   int stages, int ring_bytes) {
  using Team = ForwardTeam<T, kAligned, kAll>;
  extern __shared__ __align__(16) char shared[];
  __shared__ typename Team::Acc sum_buffer[2][kMaxWarps][Team::kSums];
  __shared__ typename Team::Acc max_buffer[kMaxWarps];
  __shared__ GeometrySums sums[kMaxTracksPerBlock];
  Team team{tracks,
            args,
            {shared, stages, static_cast<int>(tracks.view.features)},
            {sum_buffer},
            max_buffer,
            sums[threadIdx.y],
            {shared + ring_bytes, tracks.view.steps()}};
  const int64_t m = tracks.view.tracks, stride = static_cast<int64_t>(gridDim.x) * blockDim.y;
  for (int64_t track = static_cast<int64_t>(blockIdx.x) * blockDim.y + threadIdx.y; track < m;
       track += stride) {
    const int64_t offset = tracks.view.offset(track);
    team.start(offset);
    for (int64_t layer = 1; layer < tracks.view.points; ++layer) team.take_step(layer, offset, track);
    team.finish(track, offset);
  }
}

template <class T, bool kAligned, bool kAll>
void launch_forward(const GeometryForward& args, int device, void* stream) {
  constexpr int kBytes = ForwardTeam<T, kAligned, kAll>::kBytes;
  using Acc = typename AccOf<T>::type;
  static_assert(kWidestRow<T, kBytes> >= kWideFeatures, "wide rows find a workspace");
  if (args.tracks.features > kWidestRow<T, kBytes>) return wide_forward(args, stream);
  const dim3 team = team_of<T, kBytes>(args.tracks.features), grid = grid_of(args.tracks.tracks, team.y);
  const size_t run_bytes = RunTotals<Acc, kOwned<T, kBytes>>::bytes(team, args.tracks.steps());
  const int stages = stages_of<T, kBytes>(team, device, run_bytes);
  const size_t ring = ring_bytes<T, kBytes>(team, stages);
  launch(forward_kernel<T, kAligned, kAll>, grid, team, ring + run_bytes, stream, on_device(args.tracks),
         args, stages, static_cast<int>(ring));
}

}  // namespace

void track_geometry_forward(const GeometryForward& args, const Place& place) {
  use_device(place.device);
  with_dtype(args.tracks.dtype, [&](auto zero) {
    using T = decltype(zero);
    with_bools(rows_on_16_bytes(args.tracks), !args.only_lss, [&](auto aligned, auto all) {
      launch_forward<T, decltype(aligned)::value, decltype(all)::value>(args, place.device, place.stream);
    });
  });
}

}  // namespace cuda
}  // namespace geodesic_fast

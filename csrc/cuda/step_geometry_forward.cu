// SPDX-License-Identifier: MIT
// step_geometry, forward.
// Memory: reads the tracks once; what the steps of a group share comes from the first cache.
// Work:   7 operations a value; five sums over the features for each step.
// Numbers: float32 sums (float64 for float64 tracks); a step or a state whose square leaves their range is
//          taken again in float64, in units of its largest coordinate.
// Bound:  memory bandwidth.
#include "kernels.h"
#include "step_geometry.cuh"

namespace geodesic_fast {
namespace cuda {
namespace {

using namespace step_kernels;

constexpr int kSteps = 4;  // at a time

enum Sum : int { kSquare = 0, kState, kStates, kUpdate, kTurn, kSums };

// Where the numbers of a track go.
template <class Acc>
struct StepOutput {
  const StepGeometry& args;
  int64_t track;

  __device__ __forceinline__ void write(int field, int64_t layer, double value) const {
    const int64_t n = args.tracks.steps(), m = args.tracks.tracks;
    static_cast<Acc*>(args.fields)[(field * n + layer - 1) * m + track] = static_cast<Acc>(value);
  }
  __device__ __forceinline__ void keep(int64_t layer, double norm, double length) const {
    const int64_t n = args.tracks.steps(), m = args.tracks.tracks;
    if (layer == n) write(kTurningCosine, n, 0);
    if (args.kept == nullptr) return;
    args.kept[layer * m + track] = norm;
    args.kept[(n + 1 + layer) * m + track] = length;
  }
};

// Rows in units of their largest coordinates: x^(l-1), x^(l), the step between them, and the step before.
template <class T, bool kAligned>
struct ScaledRows {
  enum Row : int { kBefore = 0, kAfter, kStep, kEarlier, kRows };
  enum Dot : int { kBeforeAfter = kRows, kStepBefore, kStepEarlier, kCount };
  const Walk<T, kAligned>& walk;
  int64_t layer;
  double factor = 1;  // of everything: a half where a difference would overflow
  double unit[kRows], values[kCount];

  __device__ __forceinline__ void rows_at(int64_t j, double (&part)[kRows]) const {
    const double before = widen(walk.point(layer > 0 ? layer - 1 : 0)[j]) * factor,
                 after = widen(walk.point(layer)[j]) * factor;
    part[kBefore] = before, part[kAfter] = after;
    part[kStep] = after - before;
    part[kEarlier] = layer > 1 ? before - widen(walk.point(layer - 2)[j]) * factor : 0.0;
  }
  // Returns whether one of the largest coordinates is infinite.
  __device__ __forceinline__ bool find_units(double* max_buffer) {
#pragma unroll
    for (int row = 0; row < kRows; ++row) unit[row] = 0;
    double part[kRows];
    for (int64_t j = threadIdx.x; j < walk.tracks.view.features; j += blockDim.x) {
      rows_at(j, part);
#pragma unroll
      for (int row = 0; row < kRows; ++row) unit[row] = larger(unit[row], fabs(part[row]));
    }
    bool infinite = false;
#pragma unroll
    for (int row = 0; row < kRows; ++row) {
      unit[row] = team_max(unit[row], max_buffer);
      infinite |= isinf(unit[row]);
    }
    return infinite;
  }

  __device__ __forceinline__ ScaledRows(const Walk<T, kAligned>& walk, int64_t layer,
                                        TeamSum<double, kCount>& sum, double* max_buffer)
      : walk(walk), layer(layer), unit{}, values{} {
    if (find_units(max_buffer)) {
      factor = 0.5;
      find_units(max_buffer);
    }
#pragma unroll
    for (int row = 0; row < kRows; ++row) {
      if (isinf(unit[row])) unit[row] = NAN;
    }
    double part[kRows];
    for (int64_t j = threadIdx.x; j < walk.tracks.view.features; j += blockDim.x) {
      rows_at(j, part);
#pragma unroll
      for (int row = 0; row < kRows; ++row) {
        part[row] = unit[row] == 0 ? 0.0 : part[row] / unit[row];
        values[row] += part[row] * part[row];
      }
      values[kBeforeAfter] += part[kBefore] * part[kAfter];
      values[kStepBefore] += part[kStep] * part[kBefore];
      values[kStepEarlier] += part[kStep] * part[kEarlier];
    }
    sum(values);
  }
  __device__ __forceinline__ double norm(int row) const { return unit[row] * sqrt(values[row]) / factor; }
  __device__ __forceinline__ double cosine(int dot, int a, int b) const {
    return within_one(values[dot] / sqrt(values[a]) / sqrt(values[b]));
  }
  __device__ __forceinline__ double relative() const {
    return unit[kStep] / unit[kBefore] * sqrt(values[kStep] / (unit[kBefore] == 0 ? 1.0 : values[kBefore]));
  }
};

// Of the last point and the last step: their squares, and whether both are in the safe range.
template <class Acc>
struct Last {
  Acc state, square;
  bool safe;
};

template <class Acc>
__device__ __forceinline__ void write_safe(const StepOutput<Acc>& out, int64_t layer, const Last<Acc>& last,
                                           const Last<Acc>& now, const Acc* sums) {
  const double length = sqrt(static_cast<double>(now.square)), before = sqrt(static_cast<double>(last.state)),
               after = sqrt(static_cast<double>(now.state));
  out.write(kStepLength, layer, length);
  out.write(kRelativeLength, layer, length / before);
  out.write(kStateCosine, layer, within_one(sums[kStates] / (before * after)));
  out.write(kUpdateCosine, layer, within_one(sums[kUpdate] / (length * before)));
  if (layer > 1) {
    out.write(kTurningCosine, layer - 1,
              within_one(sums[kTurn] / (length * sqrt(static_cast<double>(last.square)))));
  }
  out.keep(layer, after, length);
}

template <class T, bool kAligned, class Acc = typename AccOf<T>::type>
__device__ __forceinline__ void write_scaled(const StepOutput<Acc>& out, int64_t layer,
                                             const ScaledRows<T, kAligned>& rows) {
  using Rows = ScaledRows<T, kAligned>;
  if (layer == 0) return out.keep(0, rows.norm(Rows::kAfter), 0);
  const double finite = isnan(rows.unit[Rows::kBefore] + rows.unit[Rows::kAfter]) ? NAN : 1.0;
  out.write(kStepLength, layer, rows.norm(Rows::kStep) * finite);
  out.write(kRelativeLength, layer, rows.relative() * finite);
  out.write(kStateCosine, layer, rows.cosine(Rows::kBeforeAfter, Rows::kBefore, Rows::kAfter));
  out.write(kUpdateCosine, layer, rows.cosine(Rows::kStepBefore, Rows::kStep, Rows::kBefore));
  if (layer > 1) {
    out.write(kTurningCosine, layer - 1, rows.cosine(Rows::kStepEarlier, Rows::kStep, Rows::kEarlier));
  }
  out.keep(layer, rows.norm(Rows::kAfter), rows.norm(Rows::kStep));
}

// sums <- the five sums of each of `kCount` steps from `layer` on.
template <int kCount, class T, bool kAligned, class Acc = typename AccOf<T>::type>
__device__ __forceinline__ void sum_steps(const Walk<T, kAligned>& walk, int64_t layer,
                                          Acc (&sums)[kSteps * kSums]) {
  constexpr int kWidth = Walk<T, kAligned>::kWidth;
  walk.for_packs([&](int64_t j) {
    Pack<T, kWidth> x[kCount + 2];
#pragma unroll
    for (int k = 0; k < kCount + 2; ++k) {
      const int64_t l = layer - 2 + k;
      x[k] = load_pack<T, kWidth>(walk.point(l < 0 ? 0 : l) + j);
    }
    Acc previous[kWidth], before[kWidth];
    widen_all(x[0], before);
    widen_all(x[1], previous);
#pragma unroll
    for (int i = 0; i < kWidth; ++i) before[i] = previous[i] - before[i];
#pragma unroll
    for (int k = 0; k < kCount; ++k) {
      Acc current[kWidth];
      widen_all(x[k + 2], current);
      Acc* sum = sums + k * kSums;
#pragma unroll
      for (int i = 0; i < kWidth; ++i) {
        const Acc v = current[i] - previous[i];
        sum[kSquare] += v * v;
        sum[kState] += current[i] * current[i];
        sum[kStates] += current[i] * previous[i];
        sum[kUpdate] += v * previous[i];
        sum[kTurn] += v * before[i];
        before[i] = v, previous[i] = current[i];
      }
    }
  });
}

// What lane `k` of a track's first warp takes of the sums: those of step k of a group, and the state and the
// square before it.
template <class Acc>
struct OwnStep {
  Acc sums[kSums];
  Last<Acc> last, now;

  __device__ __forceinline__ OwnStep(const Acc (&all)[kSteps * kSums], const Last<Acc>& before, int own) {
    last = before;
#pragma unroll
    for (int k = 0; k < kSteps; ++k) {
#pragma unroll
      for (int sum = 0; sum < kSums; ++sum) sums[sum] = k == 0 || k == own ? all[k * kSums + sum] : sums[sum];
      if (k + 1 == own) last = last_of(all, k);
    }
    now = Last<Acc>{sums[kState], sums[kSquare], true};
  }
  static __device__ __forceinline__ Last<Acc> last_of(const Acc (&all)[kSteps * kSums], int k) {
    const Acc state = all[k * kSums + kState], square = all[k * kSums + kSquare];
    return {state, square, is_safe_square(state) && is_safe_square(square)};
  }
};

template <class T, bool kAligned>
__global__ void __launch_bounds__(kThreads, 2)
    forward_kernel(const __grid_constant__ DeviceTracks tracks, const __grid_constant__ StepGeometry args) {
  using Acc = typename AccOf<T>::type;
  using Rows = ScaledRows<T, kAligned>;
  __shared__ typename TeamSum<Acc, kSteps * kSums>::Buffer sum_buffer;
  __shared__ typename TeamSum<Acc, 1>::Buffer state_buffer;
  __shared__ typename TeamSum<double, Rows::kCount>::Buffer scaled_buffer;
  __shared__ double max_buffer[kMaxWarps];
  TeamSum<Acc, kSteps * kSums> team_sum{sum_buffer};
  TeamSum<Acc, 1> state_sum{state_buffer};
  TeamSum<double, Rows::kCount> scaled_sum{scaled_buffer};
  const int64_t m = tracks.view.tracks, n = tracks.view.steps();
  for (int64_t track = static_cast<int64_t>(blockIdx.x) * blockDim.y + threadIdx.y; track < m;
       track += static_cast<int64_t>(gridDim.x) * blockDim.y) {
    const Walk<T, kAligned> walk{tracks, tracks.view.offset(track)};
    const StepOutput<Acc> out{args, track};
    const bool writes = threadIdx.x == 0;
    Acc state[1] = {};
    walk.for_packs([&](int64_t j) {
      const auto x = load_pack<T, Walk<T, kAligned>::kWidth>(walk.point(0) + j);
#pragma unroll
      for (int i = 0; i < Walk<T, kAligned>::kWidth; ++i) state[0] += widen(x.value[i]) * widen(x.value[i]);
    });
    state_sum(state);
    Last<Acc> last{state[0], Acc(1), is_safe_square(state[0])};
    if (writes) out.keep(0, sqrt(static_cast<double>(state[0])), 0);
    unsigned scaled = last.safe ? 0u : 1u;  // bit k: the numbers of layer - 1 + k are to be taken again
    for (int64_t layer = 1; layer <= n; layer += kSteps, scaled = 0) {
      const int count = n + 1 - layer < kSteps ? static_cast<int>(n + 1 - layer) : kSteps;
      Acc sums[kSteps * kSums] = {};
      if (count == kSteps) {
        sum_steps<kSteps>(walk, layer, sums);
      } else {
        if (count >= 1) sum_steps<1>(walk, layer, sums);
        for (int k = 1; k < count; ++k) {  // the last steps, one after another
          Acc one[kSteps * kSums] = {};
          sum_steps<1>(walk, layer + k, one);
#pragma unroll
          for (int to = 1; to < kSteps; ++to) {
#pragma unroll
            for (int sum = 0; sum < kSums; ++sum) {
              if (to == k) sums[to * kSums + sum] = one[sum];
            }
          }
        }
      }
      team_sum(sums);
      const OwnStep<Acc> own(sums, last, threadIdx.x);
#pragma unroll
      for (int k = 0; k < kSteps; ++k) {
        if (k >= count) continue;
        const Last<Acc> now = OwnStep<Acc>::last_of(sums, k);
        if (!last.safe || !now.safe) scaled |= 2u << k;
        last = now;
      }
      if (static_cast<int>(threadIdx.x) < count && (scaled >> (threadIdx.x + 1) & 1u) == 0) {
        write_safe(out, layer + threadIdx.x, own.last, own.now, own.sums);
      }
#pragma unroll 1
      for (int k = 0; scaled >> k != 0; ++k) {
        if ((scaled >> k & 1u) == 0) continue;
        const Rows rows(walk, layer - 1 + k, scaled_sum, max_buffer);
        if (writes) write_scaled(out, layer - 1 + k, rows);
      }
    }
  }
}

}  // namespace

void step_geometry_forward(const StepGeometry& args, const Place& place) {
  if (args.tracks.tracks == 0) return;
  use_device(place.device);
  const dim3 team = team_of(args.tracks.features), grid = grid_of(args.tracks.tracks, team.y);
  with_dtype(args.tracks.dtype, [&](auto zero) {
    using T = decltype(zero);
    const auto kernel = rows_on_16_bytes(args.tracks) ? forward_kernel<T, true> : forward_kernel<T, false>;
    launch(kernel, grid, team, 0, place.stream, on_device(args.tracks), args);
  });
}

}  // namespace cuda
}  // namespace geodesic_fast

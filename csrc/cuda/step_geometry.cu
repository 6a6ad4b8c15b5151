// SPDX-License-Identifier: MIT
// step_geometry, forward and backward.
// Memory: forward reads the tracks once, backward reads them once and writes the gradient once; what the
// steps
//         of a group, or neighbouring points, share comes from the first cache.
// Work:   11 operations a value forward, 25 backward; five sums over the features for each step.
// Numbers: float32 sums (float64 for float64 tracks); a step or a state whose square leaves their range is
//          taken again in float64, in units of its largest coordinate.
// Bound:  memory bandwidth.
#include "step_geometry.h"

#include "kernels.h"
#include "track_ring.cuh"

namespace geodesic_fast {
namespace cuda {
namespace {

constexpr int kThreads = 256;          // on one track, but for narrow ones
constexpr int kNarrowFeatures = 2048;  // up to these a warp has a track to itself
constexpr int kTracksPerBlock = 8;
constexpr int kSteps = 4;  // at a time

enum Sum : int { kSquare = 0, kState, kStates, kUpdate, kTurn, kSums };

template <class T, int kWidth>
__device__ __forceinline__ Pack<T, kWidth> load_pack(const T* from) {
  return *reinterpret_cast<const Pack<T, kWidth>*>(from);
}

// One track, and the features of it that a thread walks, `kWidth` at a time.
template <class T, bool kAligned>
struct Walk {
  using Acc = typename AccOf<T>::type;
  static constexpr int kWidth = kPack<T, kAligned>;
  using Packed = Pack<T, kWidth>;
  const DeviceTracks& tracks;
  int64_t offset;

  __device__ __forceinline__ const T* point(int64_t layer) const {
    return reinterpret_cast<const T*>(tracks.row(layer, offset));
  }
  template <class Body>
  __device__ __forceinline__ void for_packs(const Body& body) const {
    const int64_t stride = static_cast<int64_t>(blockDim.x) * kWidth;
    for (int64_t j = static_cast<int64_t>(threadIdx.x) * kWidth; j < tracks.view.features; j += stride)
      body(j);
  }
};

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

// sums[k] <- the five sums of the steps from `layer` on; the sum of squares of the first point in `first`.
template <class T, bool kAligned, class Acc = typename AccOf<T>::type>
__device__ __forceinline__ void sum_steps(const Walk<T, kAligned>& walk, int64_t layer, int count,
                                          Acc (&sums)[kSteps * kSums]) {
#pragma unroll
  for (int i = 0; i < kSteps * kSums; ++i) sums[i] = 0;
  constexpr int kWidth = Walk<T, kAligned>::kWidth;
  walk.for_packs([&](int64_t j) {
    Pack<T, kWidth> x[kSteps + 2];
#pragma unroll
    for (int k = 0; k < kSteps + 2; ++k) {
      const int64_t l = layer - 2 + k;
      if (k <= count + 1) x[k] = load_pack<T, kWidth>(walk.point(l < 0 ? 0 : l) + j);
    }
#pragma unroll
    for (int k = 0; k < kSteps; ++k) {
      if (k >= count) continue;
#pragma unroll
      for (int i = 0; i < kWidth; ++i) {
        const Acc previous = widen(x[k + 1].value[i]), current = widen(x[k + 2].value[i]);
        const Acc v = current - previous, before = previous - widen(x[k].value[i]);
        Acc* sum = sums + k * kSums;
        sum[kSquare] += v * v;
        sum[kState] += current * current;
        sum[kStates] += current * previous;
        sum[kUpdate] += v * previous;
        sum[kTurn] += v * before;
      }
    }
  });
}

template <class T, bool kAligned>
__global__ void __launch_bounds__(kThreads, 1)
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
      Acc sums[kSteps * kSums];
      sum_steps(walk, layer, count, sums);
      team_sum(sums);
#pragma unroll
      for (int k = 0; k < kSteps; ++k) {
        if (k >= count) continue;
        const Acc* own = sums + k * kSums;
        const Last<Acc> now{own[kState], own[kSquare],
                            is_safe_square(own[kState]) && is_safe_square(own[kSquare])};
        if (!last.safe || !now.safe) {
          scaled |= 2u << k;
        } else if (writes) {
          write_safe(out, layer + k, last, now, own);
        }
        last = now;
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

// What each point's gradient is made of, once for all its features.
template <class Acc>
__global__ void __launch_bounds__(kThreads) terms_kernel(const __grid_constant__ StepGeometryBackward args) {
  const int64_t m = args.tracks.tracks, points = args.tracks.points, total = m * points;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < total;
       i += static_cast<int64_t>(gridDim.x) * blockDim.x) {
    const PointTerms<Acc> terms(args, i / m, i % m);
#pragma unroll
    for (int term = 0; term < kStepTermCount; ++term) args.workspace[term * total + i] = terms.on[term];
  }
}

// The terms of one point, and what makes unit vectors of the steps and states around it.
template <class T, bool kAligned>
struct Around {
  using Acc = typename AccOf<T>::type;
  const Walk<T, kAligned>& walk;
  int64_t layer;
  double on[kStepTermCount];
  Acc factor[kStepTermCount];  // over the length of its row
  bool plain = true;           // every row around is near, and factors keep their digits

  __device__ __forceinline__ Around(const Walk<T, kAligned>& walk, const StepGeometryBackward& args,
                                    int64_t layer, int64_t track)
      : walk(walk), layer(layer) {
    const int64_t m = args.tracks.tracks, n = args.tracks.steps(), total = m * (n + 1);
#pragma unroll
    for (int k = 0; k < kStepTermCount; ++k) {
      on[k] = args.workspace[k * total + layer * m + track];
      factor[k] = 0;
      if (on[k] == 0) continue;
      const double size = args.kept[((k < kOnStateBefore ? n + 1 : 0) + end_of(k)) * m + track];
      factor[k] = static_cast<Acc>(on[k] / size);
      plain = plain && is_safe_square(static_cast<Acc>(size * size)) && is_safe_square(fabs(factor[k]));
    }
#pragma unroll
    for (int k = -2; k <= 2; ++k) {
      const int64_t l = layer + k;
      plain = plain && is_near(args.kept[(l < 0 ? 0 : l > n ? n : l) * m + track]);
    }
  }
  // Whether differences with other such points stay in the range, so that 0 times one of them is 0.
  static __device__ __forceinline__ bool is_near(double norm) {
    return norm < (sizeof(Acc) == 4 ? 0x1p126 : 0x1p1022);
  }
  // The layer of the state, or where the step ends.
  __device__ __forceinline__ int64_t end_of(int term) const {
    return layer - 1 + (term < kOnStateBefore ? term : term - kOnStateBefore);
  }
};

// The directions of those rows in float64, whatever their sizes: in units of their largest coordinates.
template <class T, bool kAligned>
struct CarefulRows {
  const Around<T, kAligned>& at;
  double unit[kStepTermCount], root[kStepTermCount];
  unsigned halved = 0;  // bit k: row k, where a difference would overflow

  __device__ __forceinline__ CarefulRows(const Around<T, kAligned>& at, TeamSum<double, 1>& team_sum,
                                         double* max_buffer)
      : at(at) {
#pragma unroll
    for (int k = 0; k < kStepTermCount; ++k) {
      unit[k] = root[k] = 1;
      if (at.on[k] == 0) continue;
      unit[k] = largest(k, max_buffer);
      if (isinf(unit[k])) {
        halved |= 1u << k;
        unit[k] = largest(k, max_buffer);
      }
      double squares[1] = {};
#pragma unroll 1
      for (int64_t j = threadIdx.x; j < at.walk.tracks.view.features; j += blockDim.x) {
        const double part = value(k, j) / unit[k];
        squares[0] += part * part;
      }
      team_sum(squares);
      root[k] = sqrt(squares[0]);
    }
  }
  __device__ __forceinline__ double value(int k, int64_t j) const {
    const double scale = (halved >> k & 1u) != 0 ? 0.5 : 1;
    const double now = widen(at.walk.point(at.end_of(k))[j]) * scale;
    return k < kOnStateBefore ? now - widen(at.walk.point(at.end_of(k) - 1)[j]) * scale : now;
  }
  __device__ __forceinline__ double largest(int k, double* max_buffer) const {
    double found = 0;
#pragma unroll 1
    for (int64_t j = threadIdx.x; j < at.walk.tracks.view.features; j += blockDim.x) {
      found = larger(found, fabs(value(k, j)));
    }
    return team_max(found, max_buffer);
  }
  // Without touching what is not asked for, which may be NaN.
  __device__ __forceinline__ double gradient(int64_t j) const {
    double total = 0;
#pragma unroll
    for (int k = 0; k < kStepTermCount; ++k) {
      if (at.on[k] != 0) total += at.on[k] * (value(k, j) / unit[k] / root[k]);
    }
    return total;
  }
};

template <class T, bool kAligned>
__global__ void __launch_bounds__(kThreads, 1)
    backward_kernel(const __grid_constant__ DeviceTracks tracks,
                    const __grid_constant__ DeviceTracks gradient,
                    const __grid_constant__ StepGeometryBackward args) {
  using Acc = typename AccOf<T>::type;
  constexpr int kWidth = Walk<T, kAligned>::kWidth;
  __shared__ TeamSum<double, 1>::Buffer sum_buffer;
  __shared__ double max_buffer[kMaxWarps];
  TeamSum<double, 1> team_sum{sum_buffer};
  const int64_t m = tracks.view.tracks, n = tracks.view.steps();
  for (int64_t track = static_cast<int64_t>(blockIdx.x) * blockDim.y + threadIdx.y; track < m;
       track += static_cast<int64_t>(gridDim.x) * blockDim.y) {
    const Walk<T, kAligned> walk{tracks, tracks.view.offset(track)};
    const int64_t out = gradient.view.offset(track);
    for (int64_t layer = 0; layer <= n; ++layer) {
      const Around<T, kAligned> at(walk, args, layer, track);
      T* row = reinterpret_cast<T*>(gradient.row(layer, out));
      if (!at.plain) {
        const CarefulRows<T, kAligned> rows(at, team_sum, max_buffer);
        for (int64_t j = threadIdx.x; j < tracks.view.features; j += blockDim.x) {
          narrow(static_cast<Acc>(rows.gradient(j)), row + j);
        }
        continue;
      }
      walk.for_packs([&](int64_t j) {
        Pack<T, kWidth> x[5], written;
#pragma unroll
        for (int k = 0; k < 5; ++k) {
          const int64_t l = layer - 2 + k;
          x[k] = load_pack<T, kWidth>(walk.point(l < 0 ? 0 : l > n ? n : l) + j);
        }
#pragma unroll
        for (int i = 0; i < kWidth; ++i) {
          Acc total = 0;
#pragma unroll
          for (int k = 0; k < 4; ++k) {
            total += (widen(x[k + 1].value[i]) - widen(x[k].value[i])) * at.factor[kOnStepBefore + k];
          }
#pragma unroll
          for (int k = 0; k < 3; ++k) total += widen(x[k + 1].value[i]) * at.factor[kOnStateBefore + k];
          narrow(total, &written.value[i]);
        }
        *reinterpret_cast<Pack<T, kWidth>*>(row + j) = written;
      });
    }
  }
}

// A warp per narrow track, else a block.
dim3 team_of(int64_t features) {
  return features <= kNarrowFeatures ? dim3(kWarp, kTracksPerBlock) : dim3(kThreads);
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

void step_geometry_backward(const StepGeometryBackward& args, const Place& place) {
  if (args.tracks.tracks == 0) return;
  use_device(place.device);
  const dim3 team = team_of(args.tracks.features), grid = grid_of(args.tracks.tracks, team.y);
  const bool aligned = rows_on_16_bytes(args.tracks) && rows_on_16_bytes(args.gradient);
  with_dtype(args.tracks.dtype, [&](auto zero) {
    using T = decltype(zero);
    const dim3 flat(kThreads);
    const int64_t points = args.tracks.tracks * args.tracks.points;
    launch(terms_kernel<typename AccOf<T>::type>, grid_of(points, kThreads), flat, 0, place.stream, args);
    const auto kernel = aligned ? backward_kernel<T, true> : backward_kernel<T, false>;
    launch(kernel, grid, team, 0, place.stream, on_device(args.tracks), on_device(args.gradient), args);
  });
}

}  // namespace cuda
}  // namespace geodesic_fast

// SPDX-License-Identifier: MIT
// chord_deviation, forward and backward.
// Memory: forward reads the tracks once, what its second loop reads of a group of points comes from the first
//         cache; backward reads them once and writes the gradient once.
// Work:   8 operations a value forward, 11 backward; three sums over the features per group of points.
// Numbers: float32 sums (float64 for float64 tracks), in units of the chord.
// Bound:  memory bandwidth.
#include "chord_deviation.h"

#include "kernels.h"
#include "track_ring.cuh"

namespace geodesic_fast {
namespace cuda {
namespace {

constexpr int kThreads = 256;      // on one track, but for narrow ones
constexpr int kNarrowPacks = 256;  // up to these a warp has a track to itself
constexpr int kTracksPerBlock = 8;
constexpr int kPoints = 4;  // at a time

// Rounded products are not fused with what follows: on a straight line the difference of two is zero.

// The features of one track that a thread walks, `kWidth` at a time; each value is read where it lies.
template <class Value_, bool kAligned>
struct Features {
  using Value = Value_;
  using Acc = typename AccOf<Value>::type;
  static constexpr int kWidth = kPack<Value, kAligned>;
  using Packed = Pack<Value, kWidth>;
  const DeviceTracks& tracks;
  int64_t offset;

  __device__ __forceinline__ const Value* point(int64_t layer) const {
    return reinterpret_cast<const Value*>(tracks.row(layer, offset));
  }
  // As a TrackRing has it: here a thread's places are the features themselves.
  static __device__ __forceinline__ const Value* own(const Value* row) { return row; }
  // Calls body(first feature of a pack).
  template <class Body>
  __device__ __forceinline__ void for_packs(const Body& body) const {
    const int64_t step = static_cast<int64_t>(blockDim.x) * kWidth;
    for (int64_t j = static_cast<int64_t>(threadIdx.x) * kWidth; j < tracks.view.features; j += step) body(j);
  }
  template <class Body>
  __device__ __forceinline__ void for_owned(const Body& body) const {
    for_packs([&](int64_t j) {
#pragma unroll
      for (int i = 0; i < kWidth; ++i) body(i, j + i);
    });
  }
};

template <class Value, int kWidth>
__device__ __forceinline__ Pack<Value, kWidth> load_pack(const Value* from) {
  return *reinterpret_cast<const Pack<Value, kWidth>*>(from);
}

// The chord as the threads of its track use it.
template <class Acc>
struct TeamChord : Chord<Acc> {
  Acc inverse;  // 1 / length
  bool plain;   // not wide, and products with `inverse` are exactly 1 or -1 along an axis

  __device__ __forceinline__ explicit TeamChord(Length c)
      : Chord<Acc>(c), inverse(1 / this->length), plain(!this->wide() && this->length * inverse == 1) {}

  __device__ __forceinline__ Acc direction(Acc first, Acc last) const {
    const Acc v = this->wide() ? (last * Acc(0.5) - first * Acc(0.5)) * (this->scale * 2)
                               : (last - first) * this->scale;
    return v / this->length;
  }
};

// What a thread needs of the chord at its features: the first point, and the direction.
template <class Team>
struct ChordPack {
  using Acc = typename Team::Acc;
  Acc first[Team::kWidth], direction[Team::kWidth];

  __device__ __forceinline__ ChordPack(const Team& team, const TeamChord<Acc>& chord, int64_t j) {
    const auto start = load_pack<typename Team::Value, Team::kWidth>(team.point(0) + j);
    const auto end = load_pack<typename Team::Value, Team::kWidth>(team.point(team.tracks.view.steps()) + j);
    widen_all(start, first);
    widen_all(end, direction);
    if (chord.plain) {
#pragma unroll
      for (int i = 0; i < Team::kWidth; ++i) {
        direction[i] = (direction[i] - first[i]) * chord.scale * chord.inverse;
      }
    } else {
#pragma unroll
      for (int i = 0; i < Team::kWidth; ++i) direction[i] = chord.direction(first[i], direction[i]);
    }
  }
};

// Adds to sums[k] the squares of w, or of w - along[k] e with `kRest`, and to sums[kPoints + k] its products
// with e, for `kCount` points from `layer` on.
template <int kCount, bool kRest, class Team, class Acc = typename Team::Acc>
__device__ __forceinline__ void add_points(const Team& team, const TeamChord<Acc>& chord, int64_t layer,
                                           const Acc (&along)[kPoints], Acc (&sums)[2 * kPoints]) {
  team.for_packs([&](int64_t j) {
    typename Team::Packed x[kCount];
#pragma unroll
    for (int k = 0; k < kCount; ++k) {
      x[k] = load_pack<typename Team::Value, Team::kWidth>(team.point(layer + k) + j);
    }
    const ChordPack<Team> at(team, chord, j);
#pragma unroll
    for (int k = 0; k < kCount; ++k) {
      Acc values[Team::kWidth];
      widen_all(x[k], values);
#pragma unroll
      for (int i = 0; i < Team::kWidth; ++i) {
        const Acc e = at.direction[i], w = (values[i] - at.first[i]) * chord.scale;
        const Acc off = kRest ? w - rounded_product(along[k], e) : w;
        sums[k] += off * off;
        sums[kPoints + k] += off * e;
      }
    }
  });
}

// The same over all features, for `count` points.
template <bool kRest, class Team, class Sum, class Acc = typename Team::Acc>
__device__ __forceinline__ void sum_over_points(const Team& team, const TeamChord<Acc>& chord, int64_t layer,
                                                int count, Sum& team_sum, const Acc (&along)[kPoints],
                                                Acc (&sums)[2 * kPoints]) {
#pragma unroll
  for (int k = 0; k < 2 * kPoints; ++k) sums[k] = 0;
  if (count == kPoints) {
    add_points<kPoints, kRest>(team, chord, layer, along, sums);
  } else {
#pragma unroll 1
    for (int own = 0; own < count; ++own) {  // the last points, one after another
      Acc one[2 * kPoints] = {}, its[kPoints] = {};
#pragma unroll
      for (int k = 0; k < kPoints; ++k) its[0] = k == own ? along[k] : its[0];
      add_points<1, kRest>(team, chord, layer + own, its, one);
#pragma unroll
      for (int k = 0; k < kPoints; ++k) {
        if (k == own) sums[k] = one[0], sums[kPoints + k] = one[kPoints];
      }
    }
  }
  team_sum(sums);
}

// One point in a unit of its own, where the chord's does not do: its deviation, and its way along the chord
// over its distance from it.
template <class Acc>
struct Scaled {
  double deviation;
  Acc along;
};
template <class Team, class Sum, class Acc = typename Team::Acc>
__device__ __forceinline__ Scaled<Acc> measure_scaled(const Team& team, const TeamChord<Acc>& chord,
                                                      int64_t layer, Sum& team_sum, Acc* max_buffer) {
  const auto *point = team.point(layer), *first = team.point(0);
  Acc factor = 1, largest = 0;
  const auto offset = [&](int64_t j) { return widen(point[j]) * factor - widen(first[j]) * factor; };
  team.for_owned([&](int, int64_t j) { largest = larger(largest, fabs(offset(j))); });
  largest = team_max(largest, max_buffer);
  if (isinf(largest)) {  // of halves it does not overflow
    factor = Acc(0.5), largest = 0;
    team.for_owned([&](int, int64_t j) { largest = larger(largest, fabs(offset(j))); });
    largest = team_max(largest, max_buffer);
  }
  Acc along = 0, rest = 0, sums[2 * kPoints];
#pragma unroll 1
  for (int turn = 0; turn < 3; ++turn) {
#pragma unroll
    for (int k = 0; k < 2 * kPoints; ++k) sums[k] = 0;
    team.for_packs([&](int64_t j) {
      const ChordPack<Team> at(team, chord, j);
#pragma unroll
      for (int i = 0; i < Team::kWidth; ++i) {
        const Acc e = at.direction[i], w = largest == 0 ? Acc(0) : offset(j + i) / largest;
        const Acc off = w - rounded_product(along, e) - rest * e;
        sums[0] += off * off;
        sums[1] += off * e;
      }
    });
    team_sum(sums);
    if (turn == 0) along = sums[1];
    if (turn == 1) rest = sums[1];
  }
  const double off = sqrt(static_cast<double>(sums[0]));
  return {off * (largest / chord.true_length.value) / chord.true_length.unit / factor,
          static_cast<Acc>((static_cast<double>(along) + rest) / off)};
}

template <class T, bool kAligned>
__global__ void __launch_bounds__(kThreads, 2)
    forward_kernel(const __grid_constant__ DeviceTracks tracks, const __grid_constant__ ChordDeviation args) {
  using Acc = typename AccOf<T>::type;
  __shared__ typename TeamSum<Acc, 2 * kPoints>::Buffer sum_buffer;
  __shared__ Acc max_buffer[kMaxWarps];
  TeamSum<Acc, 2 * kPoints> team_sum{sum_buffer};
  const int64_t m = tracks.view.tracks, n = tracks.view.steps();
  Acc *deviations = static_cast<Acc*>(args.deviation), *ways = static_cast<Acc*>(args.along);
  for (int64_t track = static_cast<int64_t>(blockIdx.x) * blockDim.y + threadIdx.y; track < m;
       track += static_cast<int64_t>(gridDim.x) * blockDim.y) {
    const Features<T, kAligned> team{tracks, tracks.view.offset(track)};
    const TeamChord<Acc> chord(team_chord(team, tracks, team.offset, team_sum, max_buffer));
    const auto write = [&](int64_t layer, Acc deviation, Acc along, Acc rest) {
      if (threadIdx.x != 0) return;
      deviations[layer * m + track] = chord.defined() ? deviation : Acc(NAN);
      if (ways == nullptr) return;
      ways[layer * m + track] = along;
      ways[(n + 1 + layer) * m + track] = rest;
    };
    write(0, 0, 0, 0);
    write(n, 0, 0, 0);
    for (int64_t layer = 1; layer < n; layer += kPoints) {
      const int count = n - layer < kPoints ? static_cast<int>(n - layer) : kPoints;
      Acc whole[2 * kPoints], off[2 * kPoints], along[kPoints] = {};
      sum_over_points<false>(team, chord, layer, count, team_sum, along, whole);
#pragma unroll
      for (int k = 0; k < kPoints; ++k) along[k] = whole[kPoints + k];
      sum_over_points<true>(team, chord, layer, count, team_sum, along, off);
#pragma unroll
      for (int k = 0; k < kPoints; ++k) {
        if (k >= count) continue;
        const Acc rest = off[kPoints + k], square = off[k] - rest * rest;
        constexpr Acc unit = sizeof(Acc) == 8 ? Acc(0x1p-52) : Acc(0x1p-23);
        const Acc rounding = whole[k] * unit * unit;  // what is smaller than that is zero for all we know
        if (is_safe_square(whole[k]) && (is_safe_square(off[k]) || is_safe_square(rounding))) {
          write(layer + k, square > 0 ? sqrt(square) / chord.length : Acc(0), along[k], rest);
        } else if (chord.defined()) {
          const Scaled<Acc> point = measure_scaled(team, chord, layer + k, team_sum, max_buffer);
          write(layer + k, static_cast<Acc>(point.deviation), point.along, NAN);
        } else {
          write(layer + k, NAN, NAN, NAN);
        }
      }
    }
  }
}

template <class Acc>
__device__ __forceinline__ double over_chord(const Chord<Acc>& chord, double value) {
  return value / chord.true_length.value / chord.true_length.unit;
}

// g_l r_l / c at one pack of features, for each inner point in turn; ends get what makes the sum zero.
template <class Team>
__device__ void write_pack(const Team& team, const TeamChord<typename Team::Acc>& chord,
                           const DeviceTracks& gradient, int64_t out, const ChordDeviationBackward& args,
                           int64_t track, double stretch, int64_t j) {
  using Acc = typename Team::Acc;
  using T = typename Team::Value;
  const int64_t m = team.tracks.view.tracks, n = team.tracks.view.steps();
  const ChordPack<Team> at(team, chord, j);
  Acc shift[Team::kWidth] = {}, turn[Team::kWidth] = {};
  typename Team::Packed packed;
  for (int64_t layer = 1; layer < n; ++layer) {
    const auto x = load_pack<T, Team::kWidth>(team.point(layer) + j);
    const Acc deviation = static_cast<const Acc*>(args.deviation)[layer * m + track];
    const Acc along = static_cast<const Acc*>(args.along)[layer * m + track];
    const Acc rest = static_cast<const Acc*>(args.along)[(n + 1 + layer) * m + track];
    const Acc incoming = static_cast<const Acc*>(args.grad)[layer * m + track];
    const bool counts = incoming != 0 && deviation != 0, scaled = rest != rest;
    const double share = over_chord(chord, incoming);
    const Acc weight = static_cast<Acc>(share);
    const Acc unit = static_cast<Acc>(share / (static_cast<double>(deviation) * chord.length));
    const Acc fraction = scaled ? along * deviation : (along + rest) / chord.length;
#pragma unroll
    for (int i = 0; i < Team::kWidth; ++i) {
      const Acc e = at.direction[i], now = widen(x.value[i]);
      Acc g = 0;
      if (counts && scaled) {
        const double half = static_cast<double>(now) * 0.5 - static_cast<double>(at.first[i]) * 0.5;
        g = static_cast<Acc>(over_chord(chord, half) * 2 / deviation - static_cast<double>(along) * e) *
            weight;
      } else if (counts) {
        const Acc w = (now - at.first[i]) * chord.scale;
        g = (w - rounded_product(along, e) - rest * e) * unit;
      }
      shift[i] += g;
      if (counts) turn[i] += fraction * g;
      narrow(g, &packed.value[i]);
    }
    *reinterpret_cast<typename Team::Packed*>(reinterpret_cast<T*>(gradient.row(layer, out)) + j) = packed;
  }
  typename Team::Packed first;
#pragma unroll
  for (int i = 0; i < Team::kWidth; ++i) {
    const Acc on_last = -turn[i] - static_cast<Acc>(stretch) * at.direction[i];
    narrow(on_last, &packed.value[i]);
    narrow(-shift[i] - on_last, &first.value[i]);
  }
  *reinterpret_cast<typename Team::Packed*>(reinterpret_cast<T*>(gradient.row(n, out)) + j) = packed;
  *reinterpret_cast<typename Team::Packed*>(reinterpret_cast<T*>(gradient.row(0, out)) + j) = first;
}

template <class Team>
__device__ __forceinline__ void write_zeros(const Team& team, const DeviceTracks& gradient, int64_t out) {
  for (int64_t layer = 0; layer < gradient.view.points; ++layer) {
    auto* row = reinterpret_cast<typename Team::Value*>(gradient.row(layer, out));
    team.for_owned([&](int, int64_t j) { narrow(typename Team::Acc(0), row + j); });
  }
}

template <class T, bool kAligned>
__global__ void __launch_bounds__(kThreads, 2)
    backward_kernel(const __grid_constant__ DeviceTracks tracks,
                    const __grid_constant__ DeviceTracks gradient,
                    const __grid_constant__ ChordDeviationBackward args) {
  using Acc = typename AccOf<T>::type;
  __shared__ typename TeamSum<Acc, 2>::Buffer sum_buffer;
  __shared__ Acc max_buffer[kMaxWarps];
  __shared__ TeamSum<double, 2>::Buffer total_buffer;
  TeamSum<Acc, 2> team_sum{sum_buffer};
  TeamSum<double, 2> total_sum{total_buffer};
  const int64_t m = tracks.view.tracks, n = tracks.view.steps();
  for (int64_t track = static_cast<int64_t>(blockIdx.x) * blockDim.y + threadIdx.y; track < m;
       track += static_cast<int64_t>(gridDim.x) * blockDim.y) {
    const Features<T, kAligned> team{tracks, tracks.view.offset(track)};
    const int64_t out = gradient.view.offset(track);
    double totals[2] = {};  // sum g_l deviation_l, and how many g_l are not zero
    for (int64_t layer = 1 + threadIdx.x; layer < n; layer += blockDim.x) {
      const double g = static_cast<const Acc*>(args.grad)[layer * m + track];
      if (g != 0) totals[0] += g * static_cast<const Acc*>(args.deviation)[layer * m + track];
      totals[1] += g != 0;
    }
    total_sum(totals);
    if (totals[1] == 0) {
      write_zeros(team, gradient, out);
      continue;
    }
    const TeamChord<Acc> chord(team_chord(team, tracks, team.offset, team_sum, max_buffer));
    team.for_packs([&](int64_t j) {
      write_pack(team, chord, gradient, out, args, track, over_chord(chord, totals[0]), j);
    });
  }
}

// A warp per narrow track, else a block.
dim3 team_of(const TracksView& tracks, bool aligned) {
  const int64_t width = aligned ? 16 / bytes_of(tracks.dtype) : 1;
  return tracks.features <= kNarrowPacks * width ? dim3(kWarp, kTracksPerBlock) : dim3(kThreads);
}

}  // namespace

void chord_deviation_forward(const ChordDeviation& args, const Place& place) {
  if (args.tracks.tracks == 0) return;
  use_device(place.device);
  const bool aligned = rows_on_16_bytes(args.tracks);
  const dim3 team = team_of(args.tracks, aligned), grid = grid_of(args.tracks.tracks, team.y);
  with_dtype(args.tracks.dtype, [&](auto zero) {
    using T = decltype(zero);
    const auto kernel = aligned ? forward_kernel<T, true> : forward_kernel<T, false>;
    launch(kernel, grid, team, 0, place.stream, on_device(args.tracks), args);
  });
}

void chord_deviation_backward(const ChordDeviationBackward& args, const Place& place) {
  if (args.tracks.tracks == 0) return;
  use_device(place.device);
  const bool aligned = rows_on_16_bytes(args.tracks) && rows_on_16_bytes(args.gradient);
  const dim3 team = team_of(args.tracks, aligned), grid = grid_of(args.tracks.tracks, team.y);
  with_dtype(args.tracks.dtype, [&](auto zero) {
    using T = decltype(zero);
    const auto kernel = aligned ? backward_kernel<T, true> : backward_kernel<T, false>;
    launch(kernel, grid, team, 0, place.stream, on_device(args.tracks), on_device(args.gradient), args);
  });
}

}  // namespace cuda
}  // namespace geodesic_fast

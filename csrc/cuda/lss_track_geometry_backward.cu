// SPDX-License-Identifier: MIT
// lss and track_geometry, backward, for tracks up to kWidestRow features; wider ones: ..._wide.cu.
// Memory: reads the tracks, the sum of directions and the lengths once; writes the gradient once.
// Work:   about 8 operations per value for lss, 14 for all fields.
// Numbers: float32 rows (float64 for float64 tracks), float64 for what has one value per track.
// Bound:  read + write bandwidth; one barrier per step.
#include "geometry_gradient.h"
#include "kept_length.cuh"
#include "kernels.h"
#include "track_ring.cuh"
#include "wide.cuh"

namespace geodesic_fast {
namespace cuda {
namespace {

// What one thread of a team carries along a track. With all fields the gradient of a step needs the
// direction after it, so each step is held until the next one is known.
template <class T, bool kAligned, bool kAll>
struct BackwardTeam {
  static constexpr int kBytes = kAligned && !kAll ? kWide : kAligned || !kAll ? kNarrow : kSlim;
  using Ring = TrackRing<T, kAligned, kBytes>;
  using Acc = typename Ring::Acc;
  static constexpr int kCount = Ring::kCount;
  static constexpr int kHeldCount = kAll ? kCount : 1;

  const DeviceTracks &tracks, &out;
  const GeometryBackward& args;
  Ring ring;
  TeamSum<Acc, 2> team_sum;
  TeamSum<double, 2> total_sum;
  Acc* max_buffer;
  GradientWeights& weights;  // in shared memory

  Acc direction_sum[kCount], gradient[kCount];  // S; the gradient of the step written last
  Acc held[kHeldCount], before[kHeldCount];     // the held direction, and the one before it as it enters
  Acc on_own, on_before;                        // the held step's weights, over its factor
  InverseLength<Acc> inverse{1};                // of the held step
  int64_t offset, out_offset, track;
  int64_t written_layer;  // where that step ends; 0: none; the held one ends at the next layer
  bool holds, parted;     // whether there is one; a zero-length step lies behind it, under "keep"

  // As it is kept.
  __device__ __forceinline__ Acc length_of(int64_t layer) const {
    if (layer >= tracks.view.points) return 0;
    return static_cast<const Acc*>(args.lengths)[(layer - 1) * tracks.view.tracks + track];
  }

  __device__ __forceinline__ void start() {
    team_sync();  // nobody still reads the weights of the track before
    const Acc* sum = static_cast<const Acc*>(args.direction_sum) + track * tracks.view.features;
    Acc squares[2] = {};
#pragma unroll
    for (int i = 0; i < kCount; ++i) direction_sum[i] = gradient[i] = 0;
#pragma unroll
    for (int i = 0; i < kHeldCount; ++i) held[i] = before[i] = 0;
    ring.for_owned([&](int i, int j) {
      direction_sum[i] = sum[j];
      squares[0] += sum[j] * sum[j];
    });
    team_sum(squares);
    const LengthTotals totals = length_totals();
    const Length chord = kAll ? team_chord(ring, tracks, offset, team_sum, max_buffer) : Length();
    if (threadIdx.x == 0) {
      weights = GradientWeights();
      weights.set(static_cast<const Acc*>(args.grad_fields) + track, tracks.view.tracks, args.only_lss,
                  totals, sqrt(static_cast<double>(squares[0])), chord, args.zero_step);
    }
    team_sync();
    written_layer = 0;
    holds = false;
    on_own = on_before = 0;
    inverse = InverseLength<Acc>(1);
    parted = false;
    if (kAll && weights.chord != 0) {
      ring.for_owned([&](int i, int j) { gradient[i] = boundary(j); });
    }
  }

  // Calls body(length) for the thread's share of the steps.
  template <class Body>
  __device__ __forceinline__ void for_lengths(const Body& body) const {
    for (int64_t layer = 1 + threadIdx.x; layer < tracks.view.points; layer += blockDim.x) {
      body(KeptLength<Acc>::of(length_of(layer)));
    }
  }

  __device__ __forceinline__ LengthTotals length_totals() {
    LengthTotals totals;
    totals.steps = tracks.view.steps();
    totals.unit = 1;
    if constexpr (kAll && sizeof(Acc) == 8) {  // squares of narrower types never leave the range
      double sizes[2] = {};                    // how many are long, and how many not short
      for_lengths([&](Length length) {
        const double unit = length.value == 0 ? kShortUnit : unit_beside(length, 0);
        sizes[0] += unit == kLongUnit;
        sizes[1] += unit == 1;
      });
      total_sum(sizes);
      totals.unit = sizes[0] > 0 ? kLongUnit : sizes[1] > 0 ? 1 : kShortUnit;
    }
    double sums[2] = {};
    for_lengths([&](Length length) {
      sums[0] += length.in(totals.unit);
      sums[1] += length.value == 0;
    });
    total_sum(sums);
    totals.path_length = sums[0];
    totals.zero_steps = static_cast<int64_t>(sums[1]);
    totals.mean_length = sums[0] / static_cast<double>(totals.steps);
    if constexpr (kAll) {
      double scatter[2] = {};
      for_lengths([&](Length length) {
        const double off = length.in(totals.unit) - totals.mean_length;
        scatter[0] += off * off;
      });
      total_sum(scatter);
      totals.scatter = scatter[0];
    }
    return totals;
  }

  // What stands for the gradient of a step before the first point and behind the last one: the chord's.
  __device__ __forceinline__ Acc boundary(int feature) const {
    const T* first = reinterpret_cast<const T*>(tracks.row(0, offset));
    const T* last = reinterpret_cast<const T*>(tracks.row(tracks.view.steps(), offset));
    const Acc a = widen(first[feature]), b = widen(last[feature]),
              length = KeptLength<Acc>::keep(weights.chord_length);
    const Acc u = is_plain_length(length) ? (a - b) / length
                                          : scaled_direction(a, b, KeptLength<Acc>::of(length), length <= -1);
    return u * static_cast<Acc>(weights.chord);
  }

  __device__ __forceinline__ void take_step(int64_t layer, Acc length) {
    ring.advance(tracks, layer, offset);
    if (length == 0) {
      parted = parted || args.zero_step == ZeroStep::kKeep;
      return;
    }
    const bool plain = is_plain_length(length);
    const Length exact = KeptLength<Acc>::of(length);
    const Acc over = 1 / length;
    Acc u[kCount] = {};
    Acc dots[2] = {};
    ring.for_each([&](int i, Acc now, Acc previous) {
      if (plain) {
        const Acc v = now - previous;
        u[i] = v * over;
        // to the last bit: steps along one line have a sine of exactly 0
        if constexpr (kAll) u[i] = fma(fma(-u[i], length, v), over, u[i]);
      } else {
        u[i] = scaled_direction(now, previous, exact, length <= -1);
      }
      dots[0] += u[i] * direction_sum[i];
      if constexpr (kAll) dots[1] += u[i] * held[i];
    });
    team_sum(dots);
    Pair pair;
    if constexpr (kAll) {
      if (holds) {
        if (!parted) pair = pair_of(u, dots[1]);
        on_own -= pair.on_held * inverse.value;
        write_held(u, pair.weight * inverse.value, pair.sign);
      }
      close_gap(layer);
#pragma unroll
      for (int i = 0; i < kCount; ++i) before[i] = held[i] - pair.sign * u[i], held[i] = u[i];
    }
    inverse = InverseLength<Acc>(length);
    const Acc lss = static_cast<Acc>(weights.lss);
    on_own = lss == 0 ? Acc(0) : lss * dots[0] * inverse.value;
    if constexpr (kAll) {
      on_own += static_cast<Acc>(weights.own(KeptLength<Acc>::of(length)) * inverse.one_over_factor()) -
                pair.on_next * inverse.value;
      on_before = pair.weight * inverse.value;
      holds = true;
      parted = false;
    } else {
      close_gap(layer);
      const Acc on_sum = weight_of_sum();
      write(layer,
            [&](int i, int) { return inverse.factor() * (on_own * u[i] + on_sum * direction_sum[i]); });
    }
  }

  // Of the held step, over its factor.
  __device__ __forceinline__ Acc weight_of_sum() const {
    return weights.lss == 0 ? Acc(0) : static_cast<Acc>(-weights.lss) * inverse.value;
  }

  // Two neighbouring directions u and w send weight (w - sign u) to the first and weight (u - sign w) to the
  // second, less what lies along either: where they are nearly parallel that difference is all there is.
  struct Pair {
    Acc weight = 0, on_held = 0, on_next = 0;
    float sign = 0;
  };

  __device__ __forceinline__ Pair pair_of(const Acc (&next)[kCount], Acc cosine) {
    const bool flat = weights.needs_apart(cosine);
    Acc sums[2] = {};  // of the difference, with the held direction and with itself
    Pair pair;
    if (flat) {
      pair.sign = cosine < 0 ? -1 : 1;
#pragma unroll
      for (int i = 0; i < kHeldCount; ++i) {
        const Acc off = next[i] - pair.sign * held[i];
        sums[0] += off * held[i], sums[1] += off * off;
      }
      team_sum(sums);
    }
    pair.weight = static_cast<Acc>(weights.of_pair(cosine, sqrt(static_cast<double>(sums[1]))));
    if (pair.weight == 0) return Pair();
    pair.on_held = pair.weight * (flat ? sums[0] : cosine);
    pair.on_next = pair.weight * (flat ? -(sums[0] + pair.sign * sums[1]) : cosine);
    return pair;
  }

  __device__ __forceinline__ void write_held(const Acc (&next)[kCount], Acc on_next, float sign_next) {
    const Acc on_sum = weight_of_sum();
    write(written_layer + 1, [&](int i, int) {
      const Acc neighbours = on_before * before[i] + on_next * (next[i] - sign_next * held[i]);
      return inverse.factor() * (on_own * held[i] + neighbours + on_sum * direction_sum[i]);
    });
  }

  __device__ __forceinline__ void finish() {
    if constexpr (kAll) {
      const Acc nothing[kCount] = {};
      if (holds) write_held(nothing, 0, 0);
    }
    close_gap(tracks.view.points);
    const bool chord = kAll && weights.chord != 0;
    write(tracks.view.points, [&](int, int j) { return chord ? boundary(j) : Acc(0); });
  }

  // Zero-length steps between the written step and the one that ends at `layer` have no gradient.
  __device__ __forceinline__ void close_gap(int64_t layer) {
    while (written_layer < layer - 1) write(written_layer + 1, [](int, int) { return Acc(0); });
  }

  // Writes the point where the step that ends at `layer` begins; its gradient replaces the one before.
  template <class StepGradient>
  __device__ __forceinline__ void write(int64_t layer, const StepGradient& step_gradient) {
    ring.write(reinterpret_cast<T*>(out.row(layer - 1, out_offset)), [&](int i, int j) {
      const Acc g = step_gradient(i, j), difference = gradient[i] - g;
      gradient[i] = g;
      return difference;
    });
    written_layer = layer;
  }

  __device__ __forceinline__ void write_zeros() {
    for (int64_t layer = 0; layer < tracks.view.points; ++layer) {
      ring.write(reinterpret_cast<T*>(out.row(layer, out_offset)), [](int, int) { return Acc(0); });
    }
  }
};

template <class T, bool kAligned, bool kAll>
__global__ void __launch_bounds__(kMaxTeam, 1)
    backward_kernel(const __grid_constant__ DeviceTracks tracks, const __grid_constant__ DeviceTracks out,
                    const __grid_constant__ GeometryBackward args, int stages) {
  using Team = BackwardTeam<T, kAligned, kAll>;
  extern __shared__ __align__(16) char shared[];
  __shared__ typename TeamSum<typename Team::Acc, 2>::Buffer sum_buffer;
  __shared__ typename Team::Acc max_buffer[kMaxWarps];
  __shared__ TeamSum<double, 2>::Buffer total_buffer;
  __shared__ GradientWeights weights[kMaxTracksPerBlock];
  Team team{tracks,       out,
            args,         {shared, stages, static_cast<int>(tracks.view.features)},
            {sum_buffer}, {total_buffer},
            max_buffer,   weights[threadIdx.y]};
  const int64_t m = tracks.view.tracks, stride = static_cast<int64_t>(gridDim.x) * blockDim.y;
  for (int64_t track = static_cast<int64_t>(blockIdx.x) * blockDim.y + threadIdx.y; track < m;
       track += stride) {
    team.track = track;
    team.offset = tracks.view.offset(track);
    team.out_offset = out.view.offset(track);
    team.start();
    if (team.weights.nothing) {
      team.write_zeros();
      continue;
    }
    team.ring.start(tracks, team.offset);
    typename Team::Acc length = team.length_of(1);
    for (int64_t layer = 1; layer < tracks.view.points; ++layer) {
      const typename Team::Acc next = team.length_of(layer + 1);  // on its way while this step is taken
      team.take_step(layer, length);
      length = next;
    }
    team.finish();
  }
}

template <class T, bool kAligned, bool kAll>
void launch_backward(const GeometryBackward& args, int device, void* stream) {
  constexpr int kBytes = BackwardTeam<T, kAligned, kAll>::kBytes;
  static_assert(kWidestRow<T, kBytes> >= kWideFeatures, "wide rows find a workspace");
  if (args.tracks.features > kWidestRow<T, kBytes>) return wide_backward(args, stream);
  const dim3 team = team_of<T, kBytes>(args.tracks.features), grid = grid_of(args.tracks.tracks, team.y);
  const int stages = stages_of<T, kBytes>(team, device);
  launch(backward_kernel<T, kAligned, kAll>, grid, team, ring_bytes<T, kBytes>(team, stages), stream,
         on_device(args.tracks), on_device(args.gradient), args, stages);
}

}  // namespace

void track_geometry_backward(const GeometryBackward& args, const Place& place) {
  use_device(place.device);
  with_dtype(args.tracks.dtype, [&](auto zero) {
    using T = decltype(zero);
    const bool aligned = rows_on_16_bytes(args.tracks) && rows_on_16_bytes(args.gradient);
    with_bools(aligned, !args.only_lss, [&](auto is_aligned, auto all) {
      launch_backward<T, decltype(is_aligned)::value, decltype(all)::value>(args, place.device, place.stream);
    });
  });
}

}  // namespace cuda
}  // namespace geodesic_fast

// SPDX-License-Identifier: MIT
// lss and track_geometry for tracks too wide for the registers of one team: first what each step adds up
// to, then the features, a slice at a time.
// Memory: forward reads the tracks twice; backward reads them three times and writes the gradient once.
// Work, Numbers: as the narrow kernels. Bound: read bandwidth.
#include "geometry_gradient.h"
#include "kernels.h"
#include "lss_track_geometry_careful.cuh"

namespace geodesic_fast {
namespace cuda {
namespace {

constexpr int kBlock = 512;

template <class T, bool kAll>
__global__ void __launch_bounds__(kBlock, 1)
    wide_forward_kernel(const __grid_constant__ DeviceTracks tracks,
                        const __grid_constant__ GeometryForward args) {
  using Acc = typename AccOf<T>::type;
  __shared__ typename TeamSum<Acc, 2>::Buffer sum_buffer;
  __shared__ Acc max_buffer[kMaxWarps];
  WideTeam<Acc> team{{sum_buffer}, max_buffer};
  for (int64_t track = blockIdx.x; track < tracks.view.tracks; track += gridDim.x) {
    careful_forward<T, kAll>(team, tracks, args, track);
  }
}

// What the gradient of each step is made of, over the factor of its length: (5, n, m) weights of its own
// direction, of the sum, of the directions before and after, and how much of one direction is taken off the
// other where it and the one before enter each other's gradient; per track dL/dc and c of the chord.
template <class Acc>
struct StepWeights {
  Acc* start;
  int64_t n, m;
  __device__ __forceinline__ Acc& own(int64_t layer, int64_t track) const { return at(0, layer, track); }
  __device__ __forceinline__ Acc& sum(int64_t layer, int64_t track) const { return at(1, layer, track); }
  __device__ __forceinline__ Acc& before(int64_t layer, int64_t track) const { return at(2, layer, track); }
  __device__ __forceinline__ Acc& after(int64_t layer, int64_t track) const { return at(3, layer, track); }
  __device__ __forceinline__ Acc& sign(int64_t layer, int64_t track) const { return at(4, layer, track); }
  __device__ __forceinline__ Acc& chord(int64_t track) const { return start[5 * n * m + track]; }
  __device__ __forceinline__ Acc& chord_length(int64_t track) const { return start[(5 * n + 1) * m + track]; }
  __device__ __forceinline__ Acc& at(int64_t which, int64_t layer, int64_t track) const {
    return start[(which * n + layer - 1) * m + track];
  }
};

// What two neighbouring directions, of which `last` is the first, send each other: see ..._backward.cu.
struct WidePair {
  double weight = 0, sign = 0, on_last = 0, on_step = 0;

  template <class Team, class T>
  __device__ __forceinline__ WidePair(Team& team, int64_t d, const Step<T>& step, const Step<T>& last,
                                      const GradientWeights& weights) {
    using Acc = typename AccOf<T>::type;
    const double cosine = team.over_features(d, [&](int64_t j) { return step.unit(j) * last.unit(j); });
    if (!weights.needs_apart(cosine)) {
      weight = weights.of_pair(cosine, 0);
      on_last = on_step = weight == 0 ? 0 : weight * cosine;
      return;
    }
    const Acc side = cosine < 0 ? -1 : 1;
    const double off = apart(team, d, step, last, cosine), found = weights.of_pair(cosine, off);
    if (found == 0) return;
    const double off_last =
        team.over_features(d, [&](int64_t j) { return (step.unit(j) - side * last.unit(j)) * last.unit(j); });
    weight = found, sign = side;
    on_last = weight * off_last, on_step = -weight * (off_last + sign * off * off);
  }
};

template <class T>
__global__ void __launch_bounds__(kBlock, 1)
    wide_weights_kernel(const __grid_constant__ DeviceTracks tracks,
                        const __grid_constant__ GeometryBackward args) {
  using Acc = typename AccOf<T>::type;
  __shared__ typename TeamSum<Acc, 2>::Buffer sum_buffer;
  __shared__ Acc max_buffer[kMaxWarps];
  WideTeam<Acc> team{{sum_buffer}, max_buffer};
  const int64_t m = tracks.view.tracks, d = tracks.view.features, n = tracks.view.steps();
  const Acc* lengths = static_cast<const Acc*>(args.lengths);
  const StepWeights<Acc> out{static_cast<Acc*>(args.workspace), n, m};
  const bool leader = threadIdx.x == 0;
  for (int64_t track = blockIdx.x; track < m; track += gridDim.x) {
    const int64_t offset = tracks.view.offset(track);
    const Acc* direction_sum = static_cast<const Acc*>(args.direction_sum) + track * d;
    LengthTotals totals;
    for (int64_t layer = 1; layer <= n; ++layer)
      totals.add(KeptLength<Acc>::of(lengths[(layer - 1) * m + track]));
    const Acc square = team.over_squares(d, [&](int64_t j) { return direction_sum[j]; });
    Step<T> chord(tracks, n, offset);
    chord.before = reinterpret_cast<const T*>(tracks.row(0, offset));
    GradientWeights weights;
    weights.set(static_cast<const Acc*>(args.grad_fields) + track, m, args.only_lss, totals,
                sqrt(static_cast<double>(square)), args.only_lss ? Length() : team.length(chord, d),
                args.zero_step);
    if (leader) {
      out.chord(track) = static_cast<Acc>(weights.chord);
      out.chord_length(track) = KeptLength<Acc>::keep(weights.chord_length);
    }
    int64_t held =
        0;  // the layer where the last step with a direction ends, unless it is parted from the next
    Step<T> last;
    Acc inverse_held = 0;  // 1 / its length, over its factor
    for (int64_t layer = 1; layer <= n; ++layer) {
      Step<T> step(tracks, layer, offset);
      step.length = lengths[(layer - 1) * m + track];
      if (leader)
        for (int which = 0; which < 5; ++which) out.at(which, layer, track) = 0;
      if (step.length == 0) {
        if (args.zero_step == ZeroStep::kKeep) held = 0;
        continue;
      }
      if (weights.nothing) continue;
      const Length length = KeptLength<Acc>::of(step.length);
      const InverseLength<Acc> inverse(step.length);
      const double lss = weights.lss * inverse.value;
      double own = weights.own(length) / inverse.factor();
      if (lss != 0) {
        own += lss * team.over_features(d, [&](int64_t j) { return step.unit(j) * direction_sum[j]; });
      }
      if (!args.only_lss && held > 0) {
        const WidePair pair(team, d, step, last, weights);
        own -= pair.on_step * inverse.value;
        if (leader) {
          out.own(held, track) -= static_cast<Acc>(pair.on_last * inverse_held);
          out.after(held, track) = static_cast<Acc>(pair.weight * inverse_held);
          out.before(layer, track) = static_cast<Acc>(pair.weight * inverse.value);
          out.sign(layer, track) = static_cast<Acc>(pair.sign);
        }
      }
      if (leader) {
        out.own(layer, track) = static_cast<Acc>(own);
        out.sum(layer, track) = static_cast<Acc>(-lss);
      }
      held = layer;
      last = step;
      inverse_held = inverse.value;
    }
  }
}

// Each thread follows one feature of one track through the layers.
template <class T>
__global__ void __launch_bounds__(kBlock, 1)
    wide_backward_kernel(const __grid_constant__ DeviceTracks tracks,
                         const __grid_constant__ DeviceTracks out,
                         const __grid_constant__ GeometryBackward args) {
  using Acc = typename AccOf<T>::type;
  const int64_t m = tracks.view.tracks, d = tracks.view.features, n = tracks.view.steps();
  const int64_t slices = (d + kBlock - 1) / kBlock;
  const Acc* lengths = static_cast<const Acc*>(args.lengths);
  const StepWeights<Acc> weights{static_cast<Acc*>(args.workspace), n, m};
  for (int64_t work = blockIdx.x; work < m * slices; work += gridDim.x) {
    const int64_t track = work / slices, j = work % slices * kBlock + threadIdx.x;
    if (j >= d) continue;
    const int64_t offset = tracks.view.offset(track), out_offset = out.view.offset(track);
    const Acc sum = static_cast<const Acc*>(args.direction_sum)[track * d + j];
    Step<T> chord(tracks, n, offset);
    chord.before = reinterpret_cast<const T*>(tracks.row(0, offset));
    const Acc on_chord = weights.chord(track);
    chord.length = weights.chord_length(track);
    const Acc boundary = on_chord == 0 ? Acc(0) : -chord.unit(j) * on_chord;
    Acc gradient = boundary;            // of the step that ends at the point being written
    Acc held_gradient = 0, held_u = 0;  // of the last step with a direction, but for its pair with the next
    Acc held_factor = 1;                // of its length
    int64_t held = 0, next_out = 0;
    const auto put = [&](Acc g) {
      narrow(gradient - g, reinterpret_cast<T*>(out.row(next_out, out_offset)) + j);
      gradient = g;
      ++next_out;
    };
    for (int64_t layer = 1; layer <= n + 1; ++layer) {
      Step<T> step;
      Acc u = 0;
      if (layer <= n) {
        step = Step<T>(tracks, layer, offset);
        step.length = lengths[(layer - 1) * m + track];
        if (step.length == 0) continue;
        u = step.unit(j);
      }
      if (held > 0) {
        const Acc after = layer <= n ? weights.after(held, track) : Acc(0);
        if (after != 0) held_gradient += after * (u - weights.sign(layer, track) * held_u);
        while (next_out < held - 1) put(0);
        put(held_factor * held_gradient);
      }
      if (layer > n) break;
      const Acc own = weights.own(layer, track), on_sum = weights.sum(layer, track);
      const Acc before = weights.before(layer, track);
      held_gradient = (own == 0 ? Acc(0) : own * u) + (on_sum == 0 ? Acc(0) : on_sum * sum) +
                      (before == 0 ? Acc(0) : before * (held_u - weights.sign(layer, track) * u));
      held_u = u;
      held_factor = InverseLength<Acc>(step.length).factor();
      held = layer;
    }
    while (next_out < n) put(0);
    put(boundary);
  }
}

}  // namespace

void wide_forward(const GeometryForward& args, void* stream) {
  with_dtype(args.tracks.dtype, [&](auto zero) {
    using T = decltype(zero);
    auto kernel = args.only_lss ? wide_forward_kernel<T, false> : wide_forward_kernel<T, true>;
    launch(kernel, grid_of(args.tracks.tracks), dim3(kBlock), 0, stream, on_device(args.tracks), args);
  });
}

void wide_backward(const GeometryBackward& args, void* stream) {
  with_dtype(args.tracks.dtype, [&](auto zero) {
    using T = decltype(zero);
    const dim3 block(kBlock);
    const int64_t slices = (args.tracks.features + kBlock - 1) / kBlock;
    launch(wide_weights_kernel<T>, grid_of(args.tracks.tracks), block, 0, stream, on_device(args.tracks),
           args);
    launch(wide_backward_kernel<T>, grid_of(args.tracks.tracks * slices), block, 0, stream,
           on_device(args.tracks), on_device(args.gradient), args);
  });
}

}  // namespace cuda
}  // namespace geodesic_fast

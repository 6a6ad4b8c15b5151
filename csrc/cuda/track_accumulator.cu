// SPDX-License-Identifier: MIT
// One more layer for tracks that are measured while they arrive, and their numbers at the end.
// Memory: an update reads x^(l-1), x^(l), the last step and the sum of directions, writes the last two: 6 m d
//         values (what the second sweep over a row reads again comes from the cache); two sums per warp
//         shared.
// Work:   9 operations per value.
// Numbers: as in track_geometry: float32 sums (float64 for float64 tracks), float64 for what has one value
//         per track.
// Bound:  memory bandwidth.
#include "track_accumulator.h"

#include "kernels.h"
#include "track_ring.cuh"

namespace geodesic_fast {
namespace cuda {
namespace {

constexpr int kThreads = 256;      // on one track, but for narrow ones
constexpr int kNarrowPacks = 256;  // up to these a warp has a track to itself
constexpr int kWarpsPerBlock = 8;

// The addresses of the two layers travel with the kernel's parameters.
struct TwoLayers {
  const char *before, *after;
};

// The threads of one track and what they share.
template <class T, bool kAligned>
struct Track {
  using Acc = typename AccOf<T>::type;
  static constexpr int kWidth = kPack<T, kAligned>;
  using Row = Acc[kWidth];  // of a thread
  const T *before, *after;
  Acc *direction, *direction_sum;  // `direction` holds the last step that has one, scaled
  int64_t features;

  __device__ Track(const TwoLayers& layers, const Accumulator& args, int64_t track) {
    const int64_t offset = args.tracks.offset(track);
    features = args.tracks.features;
    before = reinterpret_cast<const T*>(layers.before + offset);
    after = reinterpret_cast<const T*>(layers.after + offset);
    direction = static_cast<Acc*>(args.direction) + track * features;
    direction_sum = static_cast<Acc*>(args.direction_sum) + track * features;
  }

  // Calls body(first feature) for each of the thread's packs.
  template <class Body>
  __device__ __forceinline__ void for_packs(const Body& body) const {
    const int64_t stride = static_cast<int64_t>(blockDim.x) * kWidth;
    for (int64_t j = static_cast<int64_t>(threadIdx.x) * kWidth; j < features; j += stride) body(j);
  }

  // `half`: differences that would overflow are taken of halves.
  __device__ __forceinline__ void differences(int64_t j, bool half, Row& v) const {
    using Packed = Pack<T, kWidth>;
    Row earlier;
    widen_all(*reinterpret_cast<const Packed*>(after + j), v);
    widen_all(*reinterpret_cast<const Packed*>(before + j), earlier);
#pragma unroll
    for (int i = 0; i < kWidth; ++i)
      v[i] = half ? v[i] * Acc(0.5) - earlier[i] * Acc(0.5) : v[i] - earlier[i];
  }

  static constexpr int kEach = kAligned ? 16 / static_cast<int>(sizeof(Acc)) : 1;  // sums of an access
  static __device__ __forceinline__ void load(const Acc* from, Row& row) {
#pragma unroll
    for (int i = 0; i < kWidth; i += kEach) {
      const auto pack = *reinterpret_cast<const Pack<Acc, kEach>*>(from + i);
#pragma unroll
      for (int k = 0; k < kEach; ++k) row[i + k] = pack.value[k];
    }
  }
  static __device__ __forceinline__ void store(const Row& row, Acc* to) {
#pragma unroll
    for (int i = 0; i < kWidth; i += kEach) {
      Pack<Acc, kEach> pack;
#pragma unroll
      for (int k = 0; k < kEach; ++k) pack.value[k] = row[i + k];
      *reinterpret_cast<Pack<Acc, kEach>*>(to + i) = pack;
    }
  }

  __device__ __forceinline__ Acc largest_difference(bool half, Acc* max_buffer) const {
    Acc largest = 0;
    for_packs([&](int64_t j) {
      Row v;
      differences(j, half, v);
#pragma unroll
      for (int i = 0; i < kWidth; ++i) largest = larger(largest, fabs(v[i]));
    });
    return team_max(largest, max_buffer);
  }
};

// A row over its length, to the last bit: unit steps along an axis must cancel exactly.
template <class Acc>
struct Quotient {
  Acc length, inverse;

  __device__ explicit Quotient(Acc of) : length(of == 0 ? Acc(1) : of), inverse(of == 0 ? Acc(0) : 1 / of) {}

  __device__ __forceinline__ Acc operator()(Acc v) const {
    const Acc u = v * inverse;
    return fma(fma(-u, length, v), inverse, u);
  }
  // Whether products with `inverse` do as well: they are exactly 1 or -1 along an axis.
  __device__ __forceinline__ bool is_product() const { return length * inverse == 1; }
};

// How the differences of a row become its step: v 2^-power, of halves where they would overflow.
struct Scaling {
  int power = 0;
  bool half = false, finite = true;

  __device__ Length length(double root) const {
    return finite ? Length::product(ldexp(1.0, power), root, half ? 2 : 1) : Length(NAN);
  }
};

template <class Track, class Sum, class Acc = typename Track::Acc>
__device__ Scaling rescale(const Track& track, bool turns, Acc (&totals)[2], Sum& team_sum, Acc* max_buffer) {
  Scaling scaling;
  Acc largest = track.largest_difference(false, max_buffer);
  if (isinf(largest)) {
    scaling.half = true;
    largest = track.largest_difference(true, max_buffer);
  }
  scaling.finite = isfinite(largest);
  scaling.power = scaling.finite && largest > 0 ? ilogb(largest) : 0;
  totals[0] = totals[1] = 0;
  track.for_packs([&](int64_t j) {
    typename Track::Row v;
    track.differences(j, scaling.half, v);
#pragma unroll
    for (int i = 0; i < Track::kWidth; ++i) {
      v[i] = scaling.finite ? ldexp(v[i], -scaling.power) : Acc(NAN);
      totals[0] += v[i] * v[i];
      if (turns) totals[1] += v[i] * track.direction[j + i];
    }
  });
  team_sum(totals);
  return scaling;
}

template <class T, bool kAligned>
__global__ void __launch_bounds__(kThreads, 3)
    update_kernel(const __grid_constant__ TwoLayers layers, const __grid_constant__ Accumulator args) {
  using Acc = typename AccOf<T>::type;
  using Row = typename Track<T, kAligned>::Row;
  constexpr int kWidth = Track<T, kAligned>::kWidth;
  __shared__ typename TeamSum<Acc, 2>::Buffer sum_buffer;
  __shared__ Acc max_buffer[kMaxWarps];
  TeamSum<Acc, 2> team_sum{sum_buffer};
  const int64_t m = args.tracks.tracks, stride = static_cast<int64_t>(gridDim.x) * blockDim.y;
  for (int64_t index = static_cast<int64_t>(blockIdx.x) * blockDim.y + threadIdx.y; index < m;
       index += stride) {
    const Track<T, kAligned> track(layers, args, index);
    const HeldSums held{args.sums + index, m};
    const GeometrySums earlier = held.load();
    const bool first = earlier.steps == 0, turns = has_direction(earlier, args.zero_step);
    const Acc last_root = static_cast<Acc>(held.at(kSumRowLength));
    Acc totals[2] = {};
    track.for_packs([&](int64_t j) {
      Row v, last = {};
      track.differences(j, false, v);
      if (turns) track.load(track.direction + j, last);
#pragma unroll
      for (int i = 0; i < kWidth; ++i) {
        totals[0] += v[i] * v[i];
        totals[1] += v[i] * last[i];
      }
    });
    team_sum(totals);
    Scaling scaling;
    const bool scaled = !is_safe_square(totals[0]);
    if (scaled) scaling = rescale(track, turns, totals, team_sum, max_buffer);
    const Acc root = sqrt(totals[0]);
    const Length length = scaling.length(root);
    const bool directed = length.value != 0 || args.zero_step == ZeroStep::kKeep;
    const Quotient<Acc> unit(root);
    const auto read_step = [&](int64_t j, Row& v) {
      track.differences(j, scaling.half, v);
      if (!scaled) return;
#pragma unroll
      for (int i = 0; i < kWidth; ++i) v[i] = scaling.finite ? ldexp(v[i], -scaling.power) : Acc(NAN);
    };
    // Exactly 1 or -1 along an axis.
    const double cosine = length.value == 0 ? Acc(0) : totals[1] / (root * last_root);
    double apart = 0;
    if (directed && turns && is_flat(cosine)) {
      const Quotient<Acc> last_unit(cosine < 0 ? -last_root : last_root);
      totals[0] = totals[1] = 0;
      track.for_packs([&](int64_t j) {
        Row v, last;
        read_step(j, v);
        track.load(track.direction + j, last);
#pragma unroll
        for (int i = 0; i < kWidth; ++i) {
          const Acc off = unit(v[i]) - last_unit(last[i]);
          totals[0] += off * off;
        }
      });
      team_sum(totals);
      apart = sqrt(static_cast<double>(totals[0]));
    }
    const bool is_product = unit.is_product();
    track.for_packs([&](int64_t j) {
      Row v, sum = {};
      read_step(j, v);
      if (!first) track.load(track.direction_sum + j, sum);
#pragma unroll
      for (int i = 0; i < kWidth; ++i)
        sum[i] += is_product ? rounded_product(v[i], unit.inverse) : unit(v[i]);
      track.store(sum, track.direction_sum + j);
      if (directed) track.store(v, track.direction + j);
    });
    __syncwarp();  // what the other lanes read is written only now
    if (threadIdx.x != 0) continue;
    GeometrySums sums = held.load();
    if (directed && turns) sums.add_cosine(cosine, apart);
    sums.add_length(length);
    held.store(sums);
    if (directed) held.at(kSumRowLength) = length.value == 0 ? Acc(1) : root;
  }
}

template <class T, bool kAligned>
__global__ void __launch_bounds__(kThreads, 3)
    finish_kernel(const __grid_constant__ TwoLayers layers, const __grid_constant__ Accumulator args) {
  using Acc = typename AccOf<T>::type;
  using Row = typename Track<T, kAligned>::Row;
  constexpr int kWidth = Track<T, kAligned>::kWidth;
  __shared__ typename TeamSum<Acc, 2>::Buffer sum_buffer;
  __shared__ Acc max_buffer[kMaxWarps];
  TeamSum<Acc, 2> team_sum{sum_buffer};
  const int64_t m = args.tracks.tracks, stride = static_cast<int64_t>(gridDim.x) * blockDim.y;
  for (int64_t index = static_cast<int64_t>(blockIdx.x) * blockDim.y + threadIdx.y; index < m;
       index += stride) {
    const Track<T, kAligned> track(layers, args, index);
    const HeldSums held{args.sums + index, m};
    Acc totals[2] = {};  // |u_1 + ... + u_n|^2 and |x^(n) - x^(0)|^2
    track.for_packs([&](int64_t j) {
      Row v, sum;
      track.differences(j, false, v);
      track.load(track.direction_sum + j, sum);
#pragma unroll
      for (int i = 0; i < kWidth; ++i) totals[0] += sum[i] * sum[i], totals[1] += v[i] * v[i];
    });
    team_sum(totals);
    const double resultant = sqrt(static_cast<double>(totals[0]));
    Scaling scaling;
    if (!is_safe_square(totals[1])) {
      Acc scaled[2];
      scaling = rescale(track, false, scaled, team_sum, max_buffer);
      totals[1] = scaled[0];
    }
    const Length chord = scaling.length(sqrt(static_cast<double>(totals[1])));
    __syncwarp();  // what the other lanes read is written only now
    if (threadIdx.x != 0) continue;
    const GeometrySums sums = held.load();
    write_fields(sums, resultant, chord, args.zero_step, static_cast<Acc*>(args.fields) + index, m);
    args.zero_steps[index] = sums.zero_steps;
  }
}

template <class Kernel>
void launch_tracks(const Kernel& kernel, bool aligned, const Accumulator& args, void* stream) {
  const int64_t width = aligned ? 16 / bytes_of(args.tracks.dtype) : 1;
  const bool narrow = args.tracks.features <= kNarrowPacks * width;
  const dim3 block(narrow ? kWarp : kThreads, narrow ? kWarpsPerBlock : 1);
  if (args.tracks.tracks == 0) return;
  const TwoLayers layers{args.tracks.table[0], args.tracks.table[1]};
  launch(kernel, grid_of(args.tracks.tracks, block.y), block, 0, stream, layers, args);
}

bool rows_are_aligned(const Accumulator& args) {
  const auto sums =
      reinterpret_cast<uintptr_t>(args.direction) | reinterpret_cast<uintptr_t>(args.direction_sum);
  return rows_on_16_bytes(args.tracks) && sums % 16 == 0;
}

}  // namespace

void track_accumulator_update(const Accumulator& args, const Place& place) {
  use_device(place.device);
  const bool aligned = rows_are_aligned(args);
  with_dtype(args.tracks.dtype, [&](auto zero) {
    using T = decltype(zero);
    const auto kernel = aligned ? update_kernel<T, true> : update_kernel<T, false>;
    launch_tracks(kernel, aligned, args, place.stream);
  });
}

void track_accumulator_finish(const Accumulator& args, const Place& place) {
  use_device(place.device);
  const bool aligned = rows_are_aligned(args);
  with_dtype(args.tracks.dtype, [&](auto zero) {
    using T = decltype(zero);
    const auto kernel = aligned ? finish_kernel<T, true> : finish_kernel<T, false>;
    launch_tracks(kernel, aligned, args, place.stream);
  });
}

}  // namespace cuda
}  // namespace geodesic_fast

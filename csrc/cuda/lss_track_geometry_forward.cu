// SPDX-License-Identifier: MIT
// lss and track_geometry, forward, for tracks up to kWidestRow features; wider ones: ..._wide.cu.
// Memory: the tracks are read once, (n+1) m d values; a ring of 2 pairs of points per track in shared memory.
// Work:   4 operations per value for lss, 5 for all fields, and the widening of halves.
// Numbers: float32 sums in registers (float64 for float64 tracks), in runs of kRun directions; float64 for
//         what has one value per step. Products that join a square are fused by name: lss and track_geometry
//         agree to the last bit whatever the compiler does.
// Bound:  read bandwidth; one barrier for two steps, hidden by the other blocks and by the points in flight.
//         A track with a step whose square leaves the range is read anew, carefully.
#include "kernels.h"
#include "length_totals.cuh"
#include "lss_track_geometry_careful.cuh"
#include "pair_ring.cuh"

namespace geodesic_fast {
namespace cuda {
namespace {

// The sums of the runs of a deep track: a plain running sum over thousands of directions would lose what the
// gradient needs.
template <class Acc, int kCount>
struct RunTotals {
  OwnRow<Acc, kCount> sums;
  bool deep;

  __device__ __forceinline__ RunTotals(char* shared, int64_t steps) : sums(shared), deep(steps > kRun) {}

  static size_t bytes(dim3 team, int64_t steps) {
    return steps > kRun ? OwnRow<Acc, kCount>::bytes(team) : 0;
  }
  __device__ __forceinline__ void clear() const {
    const Acc nothing[kCount] = {};
    if (deep) sums.store(nothing);
  }
  // Takes a run.
  __device__ __forceinline__ void take(Acc (&run)[kCount]) const {
    if (!deep) return;
    add_to(run);
    sums.store(run);
#pragma unroll
    for (int i = 0; i < kCount; ++i) run[i] = 0;
  }
  __device__ __forceinline__ void add_to(Acc (&run)[kCount]) const {
    if (!deep) return;
    Acc before[kCount];
    sums.load(before);
#pragma unroll
    for (int i = 0; i < kCount; ++i) run[i] += before[i];
  }
};

// The turns between the steps of a track: a run of them is kept in shared memory, then taken by a warp at
// once.
template <class Acc>
struct Turns {
  Acc cosine[kRun], apart[kRun];  // of those since the last sums
  double cosines, angles;
  int64_t pairs;

  // Adds up the last `count` turns; to be called by the whole team.
  __device__ __forceinline__ void take(int count) {
    team_sync();
    if (threadIdx.x < kWarp) {
      GeometrySums sums;
#pragma unroll 1
      for (int i = threadIdx.x; i < count; i += kWarp) sums.add_cosine(cosine[i], apart[i]);
#pragma unroll
      for (int lane = kWarp / 2; lane > 0; lane /= 2) {
        sums.cosines += __shfl_xor_sync(0xffffffffu, sums.cosines, lane);
        sums.angles += __shfl_xor_sync(0xffffffffu, sums.angles, lane);
      }
      if (threadIdx.x == 0) cosines += sums.cosines, angles += sums.angles, pairs += count;
    }
    team_sync();
  }
};

// What one thread of a team carries along a track.
template <class T, bool kAligned, bool kAll>
struct ForwardTeam {
  // All fields of float64 tracks take more registers than a wide slice leaves; lss alone takes the same
  // slice, as sums over others would round elsewhere.
  static constexpr int kBytes = kAligned && sizeof(T) != 8 ? kWide : kNarrow;
  using Ring = PairRing<T, kAligned, kBytes>;
  using Acc = typename Ring::Acc;
  static constexpr int kSums = kAll ? 4 : 2;
  static constexpr int kCount = Ring::kCount;

  const DeviceTracks& tracks;
  const GeometryForward& args;
  Ring ring;
  TeamSum<Acc, kSums> team_sum;
  Acc* max_buffer;
  TeamSum<double, 2> total_sum;
  Turns<Acc>& turns;  // in shared memory
  RunTotals<Acc, kCount> totals_of_runs;
  OwnRow<Acc, kCount> last;  // the last step with a direction

  Acc direction_sum[kCount];  // of u_1 + ... + u_l, those since the last run ended
  Acc last_length;            // of the last step with a direction, or 1 if it is zero; 0: none was seen
  int zero_steps;             // for lss alone
  int kept_turns;

  __device__ __forceinline__ void start(int64_t offset) {
    if (kAll && threadIdx.x == 0) turns.cosines = turns.angles = turns.pairs = 0;
    last_length = 0;
    zero_steps = kept_turns = 0;
#pragma unroll
    for (int i = 0; i < kCount; ++i) direction_sum[i] = 0;
    if constexpr (kAll) last.store(direction_sum);
    totals_of_runs.clear();
    ring.start(tracks, offset);
  }

  // Takes the steps to `layer` and to the layer behind it. Returns whether their squares said all of them.
  __device__ __forceinline__ bool take_pair(int layer, int64_t track) {
    const bool alone = layer == static_cast<int>(tracks.view.steps());
    Acc first[kCount], second[kCount];
    Acc totals[kSums] = {};
    typename OwnRow<Acc, kCount>::Packed before;
    ring.take_pair(alone, [&](int i, Acc x0, Acc x1, Acc x2) {
      first[i] = x1 - x0, second[i] = x2 - x1;
      totals[0] = fma(first[i], first[i], totals[0]);
      totals[1] = fma(second[i], second[i], totals[1]);
      if constexpr (kAll) {
        if (i % last.kEach == 0) before = last.pack(i / last.kEach);
        totals[kSums - 2] = fma(first[i], before.value[i % last.kEach], totals[kSums - 2]);
        totals[kSums - 1] = fma(second[i], first[i], totals[kSums - 1]);
      }
    });
    team_sum(totals);  // the same in every thread of the team
    ring.refill(tracks);
    Acc length = 0, next_length = 0;
    if (!add_direction(first, totals[0], &length)) return false;
    if (!alone && !add_direction(second, totals[1], &next_length)) return false;
    if ((layer + 1) % kRun == 0) totals_of_runs.take(direction_sum);
    if (threadIdx.x == 0) {
      Acc* lengths = static_cast<Acc*>(args.lengths) + (layer - 1) * tracks.view.tracks + track;
      lengths[0] = length;
      if (!alone) lengths[tracks.view.tracks] = next_length;
    }
    if constexpr (kAll) {
      if (!add_turn(first, length, totals[kSums - 2], [&](Acc(&before)[kCount]) { last.load(before); })) {
        last.load(first);
        if (last_length != 0 && !alone) totals[kSums - 1] = product(second, first);
      }
      const auto load_first = [&](Acc(&before)[kCount]) {
#pragma unroll
        for (int i = 0; i < kCount; ++i) before[i] = first[i];
      };
      const bool directed = !alone && add_turn(second, next_length, totals[kSums - 1], load_first);
      directed ? last.store(second) : last.store(first);
      if (kept_turns > kRun - 2) turns.take(kept_turns), kept_turns = 0;
    }
    return true;
  }

  // Adds step / length, zero for a step of length zero. Unit steps along an axis must cancel exactly, and so
  // must a step and its opposite: products are rounded by themselves, and taken for quotients where they give
  // 1 for the length, as they mostly do. Returns false for a step whose square has left the range.
  __device__ __forceinline__ bool add_direction(const Acc (&step)[kCount], Acc square, Acc* length) {
    if (!is_safe_square(square)) {
      if (square != 0 || team_max(largest_of(step), max_buffer) != 0) return false;
      if (!kAll) ++zero_steps;
      return true;
    }
    const Acc root = sqrt(square), inverse = 1 / root;
    *length = root;
    if (root * inverse == 1) {
#pragma unroll
      for (int i = 0; i < kCount; ++i) direction_sum[i] += rounded_product(step[i], inverse);
    } else {
#pragma unroll
      for (int i = 0; i < kCount; ++i) {
        const Acc u = step[i] * inverse;
        direction_sum[i] += fma(fma(-u, root, step[i]), inverse, u);
      }
    }
    return true;
  }

  // Keeps the turn between a step and the last one with a direction, `load_last`, whose product is given.
  // Returns whether the step has one, and is the last one from now on.
  template <class Load>
  __device__ __forceinline__ bool add_turn(const Acc (&step)[kCount], Acc length, Acc along,
                                           const Load& load_last) {
    if (length == 0 && args.zero_step != ZeroStep::kKeep) return false;
    if (last_length != 0) {
      const Acc cosine = length == 0 ? Acc(0) : along / (length * last_length);  // +-1 along an axis
      Acc apart = 0;
      if (cosine > Acc(0.9) || cosine < Acc(-0.9)) {  // as is_flat says
        Acc off[kCount];
        load_last(off);
        const Acc scale = 1 / length, scale_before = (cosine < 0 ? -1 : 1) / last_length;
#pragma unroll
        for (int i = 0; i < kCount; ++i) off[i] = step[i] * scale - off[i] * scale_before;
        apart = sqrt(product(off, off));
      }
      if (threadIdx.x == 0) turns.cosine[kept_turns] = cosine, turns.apart[kept_turns] = apart;
      ++kept_turns;
    }
    last_length = length != 0 ? length : Acc(1);
    return true;
  }

  __device__ __forceinline__ Acc product(const Acc (&a)[kCount], const Acc (&b)[kCount]) {
    Acc totals[kSums] = {};
#pragma unroll
    for (int i = 0; i < kCount; ++i) totals[0] = fma(a[i], b[i], totals[0]);
    team_sum(totals);
    return totals[0];
  }

  static __device__ __forceinline__ Acc largest_of(const Acc (&v)[kCount]) {
    Acc largest = 0;
#pragma unroll
    for (int i = 0; i < kCount; ++i) largest = larger(largest, fabs(v[i]));
    return largest;
  }

  __device__ __forceinline__ void finish(int64_t track) {
    const int64_t m = tracks.view.tracks, n = tracks.view.steps();
    Acc totals[kSums] = {};
    totals_of_runs.add_to(direction_sum);
    Acc* sums = args.direction_sum == nullptr
                    ? nullptr
                    : ring.own(static_cast<Acc*>(args.direction_sum) + track * tracks.view.features);
    ring.for_owned([&](int i, int j) {
      totals[0] = fma(direction_sum[i], direction_sum[i], totals[0]);
      if (sums != nullptr) sums[j] = direction_sum[i];
    });
    team_sum(totals);
    const double resultant = sqrt(static_cast<double>(totals[0]));
    Acc* fields = static_cast<Acc*>(args.fields) + track;
    if constexpr (kAll) {
      turns.take(kept_turns);
      const Length reach = team_chord(ring, tracks, tracks.view.offset(track), team_sum, max_buffer);
      const LengthTotals lengths =
          totals_of_lengths(static_cast<const Acc*>(args.lengths) + track, m, n, true, total_sum);
      if (threadIdx.x != 0) return;
      GeometrySums own;
      own.path_length = lengths.path_length, own.mean_length = lengths.mean_length;
      own.length_scatter = lengths.scatter, own.unit = lengths.unit;
      own.squares = lengths.scatter + lengths.mean_length * lengths.path_length;
      own.cosines = turns.cosines, own.angles = turns.angles, own.pairs = turns.pairs;
      own.steps = n, own.zero_steps = lengths.zero_steps;
      write_fields(own, resultant, reach, args.zero_step, fields, m);
      args.zero_steps[track] = lengths.zero_steps;
    } else if (threadIdx.x == 0) {
      const double counted = direction_count(n, zero_steps, args.zero_step);
      *fields = static_cast<Acc>(lss_of(counted, n - zero_steps, resultant));
    }
  }
};

template <class T, bool kAligned, bool kAll>
__global__ void __launch_bounds__(kMaxTeam, 1)
    forward_kernel(const __grid_constant__ DeviceTracks tracks, const __grid_constant__ GeometryForward args,
                   int pairs, int ring_bytes, int last_at) {
  using Team = ForwardTeam<T, kAligned, kAll>;
  using Acc = typename Team::Acc;
  extern __shared__ __align__(16) char shared[];
  __shared__ typename TeamSum<Acc, Team::kSums>::Buffer sum_buffer;
  __shared__ typename TeamSum<Acc, 2>::Buffer careful_buffer;
  __shared__ Acc max_buffer[kMaxWarps];
  __shared__ TeamSum<double, 2>::Buffer total_buffer;
  __shared__ Turns<Acc> turns[kMaxTracksPerBlock];
  Team team{tracks,
            args,
            {shared, pairs, static_cast<int>(tracks.view.features)},
            {sum_buffer},
            max_buffer,
            {total_buffer},
            turns[threadIdx.y],
            {shared + ring_bytes, tracks.view.steps()},
            OwnRow<Acc, Team::kCount>(shared + last_at)};
  const int64_t m = tracks.view.tracks, stride = static_cast<int64_t>(gridDim.x) * blockDim.y;
  const int steps = static_cast<int>(tracks.view.steps());
  for (int64_t track = static_cast<int64_t>(blockIdx.x) * blockDim.y + threadIdx.y; track < m;
       track += stride) {
    team.start(tracks.view.offset(track));
    int layer = 1;
    while (layer <= steps && team.take_pair(layer, track)) layer += 2;
    if (layer > steps) {
      team.finish(track);
    } else {  // too long, too short or too broken for its square
      team.ring.leave();
      WideTeam<Acc> careful{{careful_buffer}, max_buffer};
      careful_forward<T, kAll>(careful, tracks, args, track);
    }
    team_sync();
  }
}

template <class T, bool kAligned, bool kAll>
void launch_forward(const GeometryForward& args, int device, void* stream) {
  constexpr int kBytes = ForwardTeam<T, kAligned, kAll>::kBytes;
  using Acc = typename AccOf<T>::type;
  static_assert(kWidestRow<T, kBytes> >= kWideFeatures, "wide rows find a workspace");
  if (args.tracks.features > kWidestRow<T, kBytes>) return wide_forward(args, stream);
  const dim3 team = team_of<T, kBytes>(args.tracks.features), grid = grid_of(args.tracks.tracks, team.y);
  constexpr int kCount = kOwned<T, kBytes>;
  const size_t run_bytes = RunTotals<Acc, kCount>::bytes(team, args.tracks.steps());
  const size_t last_bytes = kAll ? OwnRow<Acc, kCount>::bytes(team) : 0;
  const int pairs = pairs_of<T, kBytes>(team, device, run_bytes + last_bytes);
  const size_t ring = pair_ring_bytes<T, kBytes>(team, pairs);
  launch(forward_kernel<T, kAligned, kAll>, grid, team, ring + run_bytes + last_bytes, stream,
         on_device(args.tracks), args, pairs, static_cast<int>(ring), static_cast<int>(ring + run_bytes));
}

}  // namespace

void track_geometry_forward(const GeometryForward& given, const Place& place) {
  use_device(place.device);
  GeometryForward args = given;
  if (args.lengths == nullptr) args.lengths = args.workspace;
  with_dtype(args.tracks.dtype, [&](auto zero) {
    using T = decltype(zero);
    with_bools(rows_on_16_bytes(args.tracks), !args.only_lss, [&](auto aligned, auto all) {
      launch_forward<T, decltype(aligned)::value, decltype(all)::value>(args, place.device, place.stream);
    });
  });
}

}  // namespace cuda
}  // namespace geodesic_fast

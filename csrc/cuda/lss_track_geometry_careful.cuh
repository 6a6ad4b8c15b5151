// SPDX-License-Identifier: MIT
// lss and track_geometry of one track whatever its width and its magnitudes, each value read where it lies.
// Memory: forward reads the track twice.
#pragma once

#include "geometry_sums.h"
#include "step.cuh"
#include "wide.cuh"

namespace geodesic_fast {
namespace cuda {

// |u - w| of the directions of two steps, or |u + w| if they point apart.
template <class Team, class T>
__device__ double apart(Team& team, int64_t d, const Step<T>& step, const Step<T>& last, double cosine) {
  using Acc = typename AccOf<T>::type;
  const Acc sign = cosine < 0 ? -1 : 1;
  const Acc square = team.over_squares(d, [&](int64_t j) { return step.unit(j) - sign * last.unit(j); });
  return sqrt(static_cast<double>(square));
}

template <class T, bool kAll, class Acc>
__device__ __forceinline__ void careful_forward(WideTeam<Acc>& team, const DeviceTracks& tracks,
                                                const GeometryForward& args, int64_t track) {
  const int64_t m = tracks.view.tracks, d = tracks.view.features, n = tracks.view.steps();
  Acc* lengths = static_cast<Acc*>(args.lengths);
  const int64_t offset = tracks.view.offset(track);
  GeometrySums sums;
  Step<T> last;  // the last step that has a direction
  bool seen = false;
  for (int64_t layer = 1; layer <= n; ++layer) {
    Step<T> step(tracks, layer, offset);
    const Length length = team.length(step, d);
    step.length = KeptLength<Acc>::keep(length);
    if (threadIdx.x == 0) lengths[(layer - 1) * m + track] = step.length;
    sums.add_length(length);
    if (length.value == 0 && args.zero_step != ZeroStep::kKeep) continue;
    if constexpr (kAll) {
      if (seen) {
        const bool parted = step.length == 0 || last.length == 0;
        const Acc cosine =
            parted ? Acc(0) : team.over_features(d, [&](int64_t j) { return step.unit(j) * last.unit(j); });
        sums.add_cosine(cosine, is_flat(cosine) ? apart(team, d, step, last, cosine) : 0);
      }
      last = step;
    }
    seen = true;
  }
  team_sync();  // the lengths are read by all threads
  const Acc square = team.over_squares(d, [&](int64_t j) {
    Acc sum = 0, run = 0;
    for (int64_t layer = 1; layer <= n; ++layer) {
      Step<T> step(tracks, layer, offset);
      step.length = lengths[(layer - 1) * m + track];
      if (step.length != 0) run += step.unit(j);
      if (layer % kRun == 0) sum += run, run = 0;
    }
    sum += run;
    if (args.direction_sum != nullptr) static_cast<Acc*>(args.direction_sum)[track * d + j] = sum;
    return sum;
  });
  Step<T> chord(tracks, n, offset);
  chord.before = reinterpret_cast<const T*>(tracks.row(0, offset));
  const Length reach = kAll ? team.length(chord, d) : Length();
  if (threadIdx.x != 0) return;
  Acc* fields = static_cast<Acc*>(args.fields) + track;
  const double resultant = sqrt(static_cast<double>(square));
  if constexpr (kAll) {
    write_fields(sums, resultant, reach, args.zero_step, fields, m);
    args.zero_steps[track] = sums.zero_steps;
  } else {
    const double counted = direction_count(sums.steps, sums.zero_steps, args.zero_step);
    *fields = static_cast<Acc>(lss_of(counted, sums.steps - sums.zero_steps, resultant));
  }
}

}  // namespace cuda
}  // namespace geodesic_fast

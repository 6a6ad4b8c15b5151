// SPDX-License-Identifier: MIT
// Every kernel, named once with what it takes. From this list come its declaration in each implementation,
// a table of function pointers for each, and a function of Python: a new kernel is one line here.
#pragma once

#include "chord_deviation.h"
#include "line_deviation.h"
#include "lss_track_geometry.h"
#include "nearest_track.h"
#include "ots.h"
#include "place.h"
#include "step_geometry.h"
#include "track_accumulator.h"
#include "track_distance.h"

// On either device.
#define GEODESIC_FAST_KERNELS(KERNEL)                            \
  KERNEL(void, track_geometry_forward, GeometryForward)          \
  KERNEL(void, track_geometry_backward, GeometryBackward)        \
  KERNEL(void, track_accumulator_update, Accumulator)            \
  KERNEL(void, track_accumulator_finish, Accumulator)            \
  KERNEL(void, chord_deviation_forward, ChordDeviation)          \
  KERNEL(void, chord_deviation_backward, ChordDeviationBackward) \
  KERNEL(void, line_deviation_forward, LineDeviation)            \
  KERNEL(void, line_deviation_backward, LineDeviationBackward)   \
  KERNEL(void, step_geometry_forward, StepGeometry)              \
  KERNEL(void, step_geometry_backward, StepGeometryBackward)     \
  KERNEL(void, track_pairs_prepare, TrackPairs)                  \
  KERNEL(void, track_distance_forward, TrackDistance)            \
  KERNEL(void, track_distance_backward, TrackDistanceBackward)   \
  KERNEL(void, nearest_track, NearestTrack)                      \
  KERNEL(void, ots_softmin, SoftminArgs)                         \
  KERNEL(void, ots_column_best, ColumnBest)                      \
  KERNEL(void, ots_list, ListArgs)
// On the CPU alone.
#define GEODESIC_FAST_CPU_KERNELS(KERNEL)      \
  KERNEL(void, ots_edge_costs, EdgeArgs)       \
  KERNEL(void, ots_dense_costs, DenseProblems) \
  KERNEL(bool, ots_dense_assignments, DenseProblems)

#define GEODESIC_FAST_DECLARE(result, name, Args) result name(const Args& args, const Place& place);
#define GEODESIC_FAST_ENTRY(result, name, Args) &name,
#define GEODESIC_FAST_MEMBER(result, name, Args) result (*name)(const Args&, const Place&);

namespace geodesic_fast {

// One implementation of all of them.
struct Kernels {
  GEODESIC_FAST_KERNELS(GEODESIC_FAST_MEMBER)
  GEODESIC_FAST_CPU_KERNELS(GEODESIC_FAST_MEMBER)
};

#define GEODESIC_FAST_IMPLEMENTATION(isa)          \
  namespace isa {                                  \
  GEODESIC_FAST_KERNELS(GEODESIC_FAST_DECLARE)     \
  GEODESIC_FAST_CPU_KERNELS(GEODESIC_FAST_DECLARE) \
  extern const Kernels kKernels;                   \
  }
GEODESIC_FAST_IMPLEMENTATION(baseline)
GEODESIC_FAST_IMPLEMENTATION(avx2)
GEODESIC_FAST_IMPLEMENTATION(avx512)

namespace cuda {
GEODESIC_FAST_KERNELS(GEODESIC_FAST_DECLARE)
int64_t line_deviation_workspace(const TracksView& tracks, bool each, int device);  // bytes
int runtime_version();
int driver_version();
int device_count();
}  // namespace cuda

inline int64_t workspace_bytes(const LineDeviation& args, int device) {
  return cuda::line_deviation_workspace(args.tracks, args.deviation != nullptr, device);
}

}  // namespace geodesic_fast

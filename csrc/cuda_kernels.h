// SPDX-License-Identifier: MIT
// Every CUDA launcher, and what a build without CUDA answers instead.
#pragma once

#include <stdexcept>

#include "chord_deviation.h"
#include "line_deviation.h"
#include "lss_track_geometry.h"
#include "nearest_track.h"
#include "ots.h"
#include "step_geometry.h"
#include "track_accumulator.h"
#include "track_distance.h"

namespace geodesic_fast {
namespace cuda {

#ifdef GEODESIC_FAST_CUDA_ARCHS
inline const char* architectures() { return GEODESIC_FAST_CUDA_ARCHS; }
int runtime_version();
int driver_version();
int device_count();
void track_geometry_forward(const GeometryForward& args, int device, void* stream);
void track_geometry_backward(const GeometryBackward& args, int device, void* stream);
void track_accumulator_update(const Accumulator& args, int device, void* stream);
void track_accumulator_finish(const Accumulator& args, int device, void* stream);
void chord_deviation_forward(const ChordDeviation& args, int device, void* stream);
void chord_deviation_backward(const ChordDeviationBackward& args, int device, void* stream);
int64_t line_deviation_workspace(const TracksView& tracks, bool each, int device);  // bytes
void line_deviation_forward(const LineDeviation& args, int device, void* stream);
void line_deviation_backward(const LineDeviationBackward& args, int device, void* stream);
void step_geometry_forward(const StepGeometry& args, int device, void* stream);
void step_geometry_backward(const StepGeometryBackward& args, int device, void* stream);
void track_pairs_prepare(const TrackPairs& pairs, int device, void* stream);
void track_distance_forward(const TrackDistance& args, int device, void* stream);
void track_distance_backward(const TrackDistanceBackward& args, int device, void* stream);
void nearest_track(const NearestTrack& args, int device, void* stream);
void softmin_pass(const ProductTile& tile, const SoftminArgs& args, int device, void* stream);
void column_best_pass(const ProductTile& tile, const float* a, float* best, int device, void* stream);
void list_pass(const ProductTile& tile, const ListArgs& args, int device, void* stream);
#else
inline const char* architectures() { return ""; }
inline int runtime_version() { return 0; }
inline int driver_version() { return 0; }
inline int device_count() { return 0; }
template <class Args>
void without_cuda(const Args&) {
  throw std::runtime_error("this build of geodesic_fast has no CUDA kernels");
}
inline void track_geometry_forward(const GeometryForward& args, int, void*) { without_cuda(args); }
inline void track_geometry_backward(const GeometryBackward& args, int, void*) { without_cuda(args); }
inline void track_accumulator_update(const Accumulator& args, int, void*) { without_cuda(args); }
inline void track_accumulator_finish(const Accumulator& args, int, void*) { without_cuda(args); }
inline void chord_deviation_forward(const ChordDeviation& args, int, void*) { without_cuda(args); }
inline void chord_deviation_backward(const ChordDeviationBackward& args, int, void*) { without_cuda(args); }
inline int64_t line_deviation_workspace(const TracksView&, bool, int) { return 0; }
inline void line_deviation_forward(const LineDeviation& args, int, void*) { without_cuda(args); }
inline void line_deviation_backward(const LineDeviationBackward& args, int, void*) { without_cuda(args); }
inline void step_geometry_forward(const StepGeometry& args, int, void*) { without_cuda(args); }
inline void step_geometry_backward(const StepGeometryBackward& args, int, void*) { without_cuda(args); }
inline void track_pairs_prepare(const TrackPairs& pairs, int, void*) { without_cuda(pairs); }
inline void track_distance_forward(const TrackDistance& args, int, void*) { without_cuda(args); }
inline void track_distance_backward(const TrackDistanceBackward& args, int, void*) { without_cuda(args); }
inline void nearest_track(const NearestTrack& args, int, void*) { without_cuda(args); }
inline void softmin_pass(const ProductTile&, const SoftminArgs& args, int, void*) { without_cuda(args); }
inline void column_best_pass(const ProductTile& tile, const float*, float*, int, void*) {
  without_cuda(tile);
}
inline void list_pass(const ProductTile&, const ListArgs& args, int, void*) { without_cuda(args); }
#endif

}  // namespace cuda
}  // namespace geodesic_fast

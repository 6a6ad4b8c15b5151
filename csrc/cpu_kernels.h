// SPDX-License-Identifier: MIT
// Every CPU kernel, declared once for each instruction set it is compiled for.
#pragma once

#include "chord_deviation.h"
#include "line_deviation.h"
#include "lss_track_geometry.h"
#include "nearest_track.h"
#include "ots.h"
#include "step_geometry.h"
#include "track_accumulator.h"
#include "track_distance.h"

#define GEODESIC_FAST_DECLARE_CPU_KERNELS(isa)                                              \
  namespace geodesic_fast {                                                                 \
  namespace isa {                                                                           \
  void track_geometry_forward(const GeometryForward& args, int threads);                    \
  void track_geometry_backward(const GeometryBackward& args, int threads);                  \
  void track_accumulator_update(const Accumulator& args, int threads);                      \
  void track_accumulator_finish(const Accumulator& args, int threads);                      \
  void chord_deviation_forward(const ChordDeviation& args, int threads);                    \
  void chord_deviation_backward(const ChordDeviationBackward& args, int threads);           \
  void line_deviation_forward(const LineDeviation& args, int threads);                      \
  void line_deviation_backward(const LineDeviationBackward& args, int threads);             \
  void step_geometry_forward(const StepGeometry& args, int threads);                        \
  void step_geometry_backward(const StepGeometryBackward& args, int threads);               \
  void track_pairs_prepare(const TrackPairs& pairs, int threads);                           \
  void track_distance_forward(const TrackDistance& args, int threads);                      \
  void track_distance_backward(const TrackDistanceBackward& args, int threads);             \
  void nearest_track(const NearestTrack& args, int threads);                                \
  void softmin_pass(const ProductTile& tile, const SoftminArgs& args, int threads);         \
  void column_best_pass(const ProductTile& tile, const float* a, float* best, int threads); \
  void list_pass(const ProductTile& tile, const ListArgs& args, int threads);               \
  void edge_costs(const EdgeArgs& args, int threads);                                       \
  void dense_costs(const DenseProblems& args, int threads);                                 \
  bool dense_assignments(const DenseProblems& args, int threads);                           \
  }                                                                                         \
  }

GEODESIC_FAST_DECLARE_CPU_KERNELS(baseline)
GEODESIC_FAST_DECLARE_CPU_KERNELS(avx2)
GEODESIC_FAST_DECLARE_CPU_KERNELS(avx512)

// SPDX-License-Identifier: MIT
// The rows of the table of contents for pairs of tracks; included by module.cpp alone, behind `Place`.
#pragma once

#include "nearest_track.h"
#include "track_distance.h"

namespace {

// Keeps the tables of layer addresses alive beside the views of them.
struct Pairs {
  Tracks tracks, other;
  TrackPairs view;
};

Pairs make_pairs(const Tracks& tracks, const Tracks& other, bool symmetric, uintptr_t scale, uintptr_t centre,
                 uintptr_t squares, uintptr_t other_squares, uintptr_t kinds, uintptr_t other_kinds) {
  if (tracks.view.points != other.view.points || tracks.view.features != other.view.features ||
      tracks.view.dtype != other.view.dtype || tracks.view.tracks < 1 || other.view.tracks < 1 ||
      (symmetric && tracks.view.tracks != other.view.tracks)) {
    throw std::invalid_argument("tracks cannot be paired");
  }
  Pairs pairs{tracks, other, {}};
  pairs.view.symmetric = symmetric;
  pairs.view.scale = pointer<double>(scale);
  pairs.view.centre = pointer<void>(centre);
  pairs.view.squares = pointer<void>(squares);
  pairs.view.other_squares = pointer<void>(other_squares);
  pairs.view.kinds = pointer<uint8_t>(kinds);
  pairs.view.other_kinds = pointer<uint8_t>(other_kinds);
  return pairs;
}

TrackPairs viewed(Pairs& pairs) {
  pairs.view.tracks = viewed(pairs.tracks);
  pairs.view.other = viewed(pairs.other);
  return pairs.view;
}

void pairs_prepare(Pairs& pairs, const Place& place) {
  const TrackPairs args = viewed(pairs);
  py::gil_scoped_release release;
  if (place.device < 0) return GEODESIC_FAST_CPU(track_pairs_prepare)(args, place.threads);
  cuda::track_pairs_prepare(args, place.device, pointer<void>(place.stream));
}

void distance_forward(Pairs& pairs, int64_t row_begin, int64_t row_end, uintptr_t distance, uintptr_t layer,
                      const Place& place) {
  TrackDistance args;
  args.pairs = viewed(pairs);
  if (row_begin < 0 || row_begin > row_end || row_end > args.pairs.tracks.tracks) {
    throw std::invalid_argument("rows out of range");
  }
  args.row_begin = row_begin;
  args.row_end = row_end;
  args.distance = pointer<void>(distance);
  args.layer = pointer<int32_t>(layer);
  py::gil_scoped_release release;
  if (place.device < 0) return GEODESIC_FAST_CPU(track_distance_forward)(args, place.threads);
  cuda::track_distance_forward(args, place.device, pointer<void>(place.stream));
}

void distance_backward(Tracks& tracks, Tracks& other, Tracks& gradient, bool of_other, uintptr_t weights,
                       uintptr_t layer, const Place& place) {
  TrackDistanceBackward args;
  args.tracks = viewed(tracks);
  args.other = viewed(other);
  args.gradient = viewed(gradient);
  args.of_other = of_other;
  args.weights = pointer<const void>(weights);
  args.layer = pointer<const int32_t>(layer);
  py::gil_scoped_release release;
  if (place.device < 0) return GEODESIC_FAST_CPU(track_distance_backward)(args, place.threads);
  cuda::track_distance_backward(args, place.device, pointer<void>(place.stream));
}

void nearest_part(Pairs& pairs, int64_t row_begin, int64_t row_end, int64_t column_begin, int64_t column_end,
                  uintptr_t labels, uintptr_t distance, uintptr_t index, uintptr_t layer, uintptr_t workspace,
                  const Place& place) {
  NearestTrack args;
  args.pairs = viewed(pairs);
  const int64_t m = args.pairs.tracks.tracks;
  if (row_begin < 0 || row_begin > row_end || row_end > m || column_begin < 0 || column_begin > column_end ||
      column_end > m || !args.pairs.symmetric) {
    throw std::invalid_argument("part out of range");
  }
  args.row_begin = row_begin, args.row_end = row_end;
  args.column_begin = column_begin, args.column_end = column_end;
  args.labels = pointer<const int64_t>(labels);
  args.distance = pointer<double>(distance);
  args.index = pointer<int64_t>(index);
  args.layer = pointer<int32_t>(layer);
  args.workspace = pointer<void>(workspace);
  py::gil_scoped_release release;
  if (place.device < 0) return GEODESIC_FAST_CPU(nearest_track)(args, place.threads);
  cuda::nearest_track(args, place.device, pointer<void>(place.stream));
}

void bind_track_distance_nearest_track(py::module_& m) {
  py::class_<Pairs>(m, "Pairs")
      .def(py::init(&make_pairs), py::arg("tracks"), py::arg("other"), py::arg("symmetric"), py::arg("scale"),
           py::arg("centre"), py::arg("squares"), py::arg("other_squares"), py::arg("kinds"),
           py::arg("other_kinds"));
  m.def("track_pairs_prepare", &pairs_prepare);
  m.def("track_distance_forward", &distance_forward);
  m.def("track_distance_backward", &distance_backward);
  m.def("nearest_track", &nearest_part);
}

}  // namespace

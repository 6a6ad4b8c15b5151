// SPDX-License-Identifier: MIT
// The chord-deviation rows of the table of contents; included by module.cpp alone, behind `Place`.
#pragma once

#include "chord_deviation.h"

namespace {

void chord_deviation_forward(Tracks& tracks, uintptr_t deviation, uintptr_t along, const Place& place) {
  ChordDeviation args;
  args.tracks = viewed(tracks);
  args.deviation = pointer<void>(deviation);
  args.along = pointer<void>(along);
  py::gil_scoped_release release;
  if (place.device < 0) return GEODESIC_FAST_CPU(chord_deviation_forward)(args, place.threads);
  cuda::chord_deviation_forward(args, place.device, pointer<void>(place.stream));
}

void chord_deviation_backward(Tracks& tracks, Tracks& gradient, uintptr_t grad, uintptr_t deviation,
                              uintptr_t along, const Place& place) {
  ChordDeviationBackward args;
  args.tracks = viewed(tracks);
  args.gradient = viewed(gradient);
  args.grad = pointer<const void>(grad);
  args.deviation = pointer<const void>(deviation);
  args.along = pointer<const void>(along);
  py::gil_scoped_release release;
  if (place.device < 0) return GEODESIC_FAST_CPU(chord_deviation_backward)(args, place.threads);
  cuda::chord_deviation_backward(args, place.device, pointer<void>(place.stream));
}

void bind_chord_deviation(py::module_& m) {
  m.def("chord_deviation_forward", &chord_deviation_forward);
  m.def("chord_deviation_backward", &chord_deviation_backward);
}

}  // namespace

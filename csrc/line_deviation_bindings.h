// SPDX-License-Identifier: MIT
// The line-deviation rows of the table of contents; included by module.cpp alone, behind `Place`.
#pragma once

#include "line_deviation.h"

namespace {

// Sums over tracks where `deviation` is 0, else each track's own matrix.
void line_deviation_forward(Tracks& tracks, int zero_step, uintptr_t sums, uintptr_t counts,
                            uintptr_t deviation, const Place& place) {
  LineDeviation args;
  args.tracks = viewed(tracks);
  args.zero_step = static_cast<ZeroStep>(zero_step);
  args.sums = pointer<double>(sums);
  args.counts = pointer<int64_t>(counts);
  args.deviation = pointer<void>(deviation);
  py::gil_scoped_release release;
  GEODESIC_FAST_CPU(line_deviation_forward)(args, place.threads);
}

void line_deviation_backward(Tracks& tracks, Tracks& gradient, uintptr_t weights, bool each,
                             const Place& place) {
  LineDeviationBackward args;
  args.tracks = viewed(tracks);
  args.gradient = viewed(gradient);
  args.weights = pointer<const void>(weights);
  args.each = each;
  py::gil_scoped_release release;
  GEODESIC_FAST_CPU(line_deviation_backward)(args, place.threads);
}

void bind_line_deviation(py::module_& m) {
  m.def("line_deviation_forward", &line_deviation_forward);
  m.def("line_deviation_backward", &line_deviation_backward);
}

}  // namespace

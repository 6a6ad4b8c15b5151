// SPDX-License-Identifier: MIT
// The line-deviation rows of the table of contents; included by module.cpp alone, behind `Place`.
#pragma once

#include "line_deviation.h"

namespace {

// Bytes that the forward kernels need to work in.
int64_t line_deviation_workspace(Tracks& tracks, bool each, const Place& place) {
  return place.device < 0 ? 0 : cuda::line_deviation_workspace(viewed(tracks), each, place.device);
}

// Sums over tracks where `deviation` is 0, else each track's own matrix.
void line_deviation_forward(Tracks& tracks, int zero_step, uintptr_t sums, uintptr_t counts,
                            uintptr_t deviation, uintptr_t workspace, const Place& place) {
  LineDeviation args;
  args.tracks = viewed(tracks);
  args.zero_step = static_cast<ZeroStep>(zero_step);
  args.sums = pointer<double>(sums);
  args.counts = pointer<int64_t>(counts);
  args.deviation = pointer<void>(deviation);
  args.workspace = pointer<void>(workspace);
  py::gil_scoped_release release;
  if (place.device < 0) return GEODESIC_FAST_CPU(line_deviation_forward)(args, place.threads);
  cuda::line_deviation_forward(args, place.device, pointer<void>(place.stream));
}

void line_deviation_backward(Tracks& tracks, Tracks& gradient, uintptr_t weights, bool each,
                             uintptr_t workspace, const Place& place) {
  LineDeviationBackward args;
  args.tracks = viewed(tracks);
  args.gradient = viewed(gradient);
  args.weights = pointer<const void>(weights);
  args.each = each;
  args.workspace = pointer<void>(workspace);
  py::gil_scoped_release release;
  if (place.device < 0) return GEODESIC_FAST_CPU(line_deviation_backward)(args, place.threads);
  cuda::line_deviation_backward(args, place.device, pointer<void>(place.stream));
}

void bind_line_deviation(py::module_& m) {
  m.def("line_deviation_workspace", &line_deviation_workspace);
  m.def("line_deviation_forward", &line_deviation_forward);
  m.def("line_deviation_backward", &line_deviation_backward);
}

}  // namespace

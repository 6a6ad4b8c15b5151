// SPDX-License-Identifier: MIT
// The step-geometry rows of the table of contents; included by module.cpp alone, behind `Place`.
#pragma once

#include "step_geometry.h"

namespace {

void step_geometry_forward(Tracks& tracks, uintptr_t fields, uintptr_t kept, const Place& place) {
  StepGeometry args;
  args.tracks = viewed(tracks);
  args.fields = pointer<void>(fields);
  args.kept = pointer<double>(kept);
  py::gil_scoped_release release;
  if (place.device < 0) return GEODESIC_FAST_CPU(step_geometry_forward)(args, place.threads);
  cuda::step_geometry_forward(args, place.device, pointer<void>(place.stream));
}

void step_geometry_backward(Tracks& tracks, Tracks& gradient, uintptr_t grad_fields, uintptr_t fields,
                            uintptr_t kept, uintptr_t workspace, const Place& place) {
  StepGeometryBackward args;
  args.tracks = viewed(tracks);
  args.gradient = viewed(gradient);
  args.grad_fields = pointer<const void>(grad_fields);
  args.fields = pointer<const void>(fields);
  args.kept = pointer<const double>(kept);
  args.workspace = pointer<double>(workspace);
  py::gil_scoped_release release;
  if (place.device < 0) return GEODESIC_FAST_CPU(step_geometry_backward)(args, place.threads);
  cuda::step_geometry_backward(args, place.device, pointer<void>(place.stream));
}

void bind_step_geometry(py::module_& m) {
  m.def("step_geometry_forward", &step_geometry_forward);
  m.def("step_geometry_backward", &step_geometry_backward);
}

}  // namespace

// SPDX-License-Identifier: MIT
// Table of contents: every function Python can call, and what was built.
#include "bind/launcher.h"

namespace py = pybind11;
using namespace geodesic_fast;

namespace {

void bind_build(py::module_& m) {
  m.attr("version") = GEODESIC_FAST_VERSION;
  m.attr("instruction_set") = instruction_set();
#ifdef __clang__
  m.attr("compiler") = "Clang " __clang_version__;
#else
  m.attr("compiler") = "GCC " __VERSION__;
#endif
#ifdef _OPENMP
  m.attr("openmp") = true;
#else
  m.attr("openmp") = false;
#endif
  m.attr("cuda_archs") = cuda_architectures();
  m.def("cuda_runtime_version", &cuda::runtime_version);
  m.def("cuda_driver_version", &cuda::driver_version);
  m.def("cuda_device_count", &cuda::device_count);
}

void bind_tracks(py::module_& m) {
  using F = GeometryForward;
  m.def("track_geometry_forward",
        launcher(&Kernels::track_geometry_forward, &F::tracks, &F::zero_step, &F::only_lss, &F::fields,
                 &F::zero_steps, &F::direction_sum, &F::lengths));
  m.def("track_geometry_forward_workspace", workspace(&track_geometry_forward_workspace));
  using B = GeometryBackward;
  m.def("track_geometry_backward",
        launcher(&Kernels::track_geometry_backward, &B::tracks, &B::gradient, &B::zero_step, &B::only_lss,
                 &B::grad_fields, &B::direction_sum, &B::lengths, &B::workspace));
  m.def("track_geometry_backward_workspace", workspace(&track_geometry_backward_workspace));
  using A = Accumulator;
  m.def("track_accumulator_update", launcher(&Kernels::track_accumulator_update, &A::tracks, &A::zero_step,
                                             &A::direction_sum, &A::direction, &A::direction_low, &A::sums));
  m.def("track_accumulator_finish",
        launcher(&Kernels::track_accumulator_finish, &A::tracks, &A::zero_step, &A::direction_sum,
                 &A::direction, &A::direction_low, &A::sums, &A::fields, &A::zero_steps));
  using C = ChordDeviation;
  m.def("chord_deviation_forward",
        launcher(&Kernels::chord_deviation_forward, &C::tracks, &C::deviation, &C::along));
  using D = ChordDeviationBackward;
  m.def("chord_deviation_backward", launcher(&Kernels::chord_deviation_backward, &D::tracks, &D::gradient,
                                             &D::grad, &D::deviation, &D::along));
  using S = StepGeometry;
  m.def("step_geometry_forward", launcher(&Kernels::step_geometry_forward, &S::tracks, &S::fields, &S::kept));
  using T = StepGeometryBackward;
  m.def("step_geometry_backward", launcher(&Kernels::step_geometry_backward, &T::tracks, &T::gradient,
                                           &T::grad_fields, &T::fields, &T::kept, &T::workspace));
  m.def("step_geometry_backward_workspace", workspace(&step_geometry_backward_workspace));
}

void bind_line_deviation(py::module_& m) {
  using F = LineDeviation;  // sums over tracks where `deviation` is 0, else each track's own matrix
  m.def("line_deviation_forward", launcher(&Kernels::line_deviation_forward, &F::tracks, &F::zero_step,
                                           &F::sums, &F::counts, &F::deviation, &F::workspace));
  m.def("line_deviation_forward_workspace", [](Tracks& tracks, bool each, const Place& place) {
    return place.device < 0 ? 0 : cuda::line_deviation_workspace(tracks.view(), each, place.device);
  });
  using B = LineDeviationBackward;
  m.def("line_deviation_backward", launcher(&Kernels::line_deviation_backward, &B::tracks, &B::gradient,
                                            &B::weights, &B::each, &B::workspace));
  m.def("line_deviation_backward_workspace", workspace(&line_deviation_backward_workspace));
}

void bind_pairs(py::module_& m) {
  m.def("track_pairs_prepare", [](Pairs& pairs, const Place& place) {
    const TrackPairs args = pairs.view();
    const py::gil_scoped_release release;
    kernels_at(place).track_pairs_prepare(args, place);
  });
  using F = TrackDistance;
  m.def("track_distance_forward", launcher(&Kernels::track_distance_forward, &F::pairs, &F::row_begin,
                                           &F::row_end, &F::distance, &F::layer));
  using B = TrackDistanceBackward;
  m.def("track_distance_backward", launcher(&Kernels::track_distance_backward, &B::tracks, &B::other,
                                            &B::gradient, &B::of_other, &B::weights, &B::layer));
  using N = NearestTrack;
  m.def("nearest_track",
        launcher(&Kernels::nearest_track, &N::pairs, &N::row_begin, &N::row_end, &N::column_begin,
                 &N::column_end, &N::labels, &N::distance, &N::index, &N::layer, &N::workspace));
}

}  // namespace

PYBIND11_MODULE(_C, m) {
  m.doc() = "The compiled engine of geodesic_fast: CPU and CUDA kernels over plain addresses.";
  bind_build(m);
  py::class_<Tracks>(m, "Tracks")
      .def(py::init(&make_tracks), py::arg("addresses"), py::arg("layer_stride"), py::arg("points"),
           py::arg("batch_size"), py::arg("batch_stride"), py::arg("features"), py::arg("dtype"));
  py::class_<Pairs>(m, "Pairs")
      .def(py::init(&make_pairs), py::arg("tracks"), py::arg("other"), py::arg("symmetric"), py::arg("scale"),
           py::arg("centre"), py::arg("squares"), py::arg("other_squares"), py::arg("kinds"),
           py::arg("other_kinds"));
  py::class_<Place>(m, "Place")
      .def(py::init([](int threads, int device, uintptr_t stream) {
             return Place{threads, device, pointer<void>(stream)};
           }),
           py::arg("threads"), py::arg("device"), py::arg("stream"));
  bind_tracks(m);
  bind_line_deviation(m);
  bind_pairs(m);
  bind_ots(m);
}

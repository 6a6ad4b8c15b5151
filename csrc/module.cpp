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

void bind_kernels(py::module_& m) {
  py::dict kernels, workspaces;
#define GEODESIC_FAST_BIND(result, name, Args) bind_kernel(#name, &Kernels::name, kernels, workspaces);
  GEODESIC_FAST_KERNELS(GEODESIC_FAST_BIND)
  GEODESIC_FAST_CPU_KERNELS(GEODESIC_FAST_BIND)
#undef GEODESIC_FAST_BIND
  m.attr("kernels") = kernels;
  m.attr("workspaces") = workspaces;
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
  bind_ots(m);
  bind_kernels(m);
}

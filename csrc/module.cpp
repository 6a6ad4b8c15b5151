// SPDX-License-Identifier: MIT
// Table of contents: every function Python can call, and what was built.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cstdlib>
#include <stdexcept>
#include <string>

#include "cpu_kernels.h"
#include "cuda_kernels.h"

namespace py = pybind11;
using namespace geodesic_fast;

namespace {

#ifdef GEODESIC_FAST_X86
// What the processor has, or the lesser one that the environment asks for.
int instruction_level() {
  const char* asked = std::getenv("GEODESIC_FAST_CPU");
  const std::string most = asked == nullptr ? "" : asked;
  if (most == "baseline") return 0;
  if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma")) return 0;
  if (most == "avx2") return 1;
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                 __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq")
             ? 2
             : 1;
}
const int kLevel = instruction_level();
#define GEODESIC_FAST_CPU(function) \
  (kLevel == 2 ? avx512::function : kLevel == 1 ? avx2::function : baseline::function)
#else
const int kLevel = 0;
#define GEODESIC_FAST_CPU(function) (baseline::function)
#endif

const char* instruction_set() { return kLevel == 2 ? "avx512" : kLevel == 1 ? "avx2" : "baseline"; }

// Owns the table of layer addresses that its view points to.
struct Tracks {
  std::vector<char*> table;
  TracksView view;
};

Tracks make_tracks(const std::vector<uintptr_t>& addresses, int64_t layer_stride, int64_t points,
                   const std::vector<int64_t>& batch_size, const std::vector<int64_t>& batch_stride,
                   int64_t features, int dtype) {
  const size_t listed = addresses.size();
  if ((listed != 1 && listed != static_cast<size_t>(points)) || listed > kMaxListedLayers || points < 1 ||
      features < 1 || dtype < 0 || dtype > 3 || batch_size.size() != batch_stride.size() ||
      batch_size.size() > kMaxBatchDims) {
    throw std::invalid_argument("layout out of range");
  }
  Tracks tracks;
  TracksView& view = tracks.view;
  view.dtype = static_cast<DType>(dtype);
  const int64_t bytes = bytes_of(view.dtype);
  view.base = reinterpret_cast<char*>(addresses[0]);
  view.layer_stride = layer_stride * bytes;
  view.points = points;
  view.features = features;
  view.tracks = 1;
  view.batch_dims = static_cast<int>(batch_size.size());
  for (size_t axis = 0; axis < batch_size.size(); ++axis) {
    view.batch_size[axis] = batch_size[axis];
    view.batch_stride[axis] = batch_stride[axis] * bytes;
    view.tracks *= batch_size[axis];
  }
  if (listed > 1) {
    for (uintptr_t address : addresses) tracks.table.push_back(reinterpret_cast<char*>(address));
  }
  return tracks;
}

TracksView viewed(Tracks& tracks) {
  tracks.view.table = tracks.table.empty() ? nullptr : tracks.table.data();
  return tracks.view;
}

template <class T>
T* pointer(uintptr_t address) {
  return reinterpret_cast<T*>(address);
}

// Where a kernel runs: threads on the CPU, a device and its stream on a GPU.
struct Place {
  int threads;
  int device;  // -1: the CPU
  uintptr_t stream;
};

void track_geometry_forward(Tracks& tracks, int zero_step, bool only_lss, uintptr_t fields,
                            uintptr_t zero_steps, uintptr_t direction_sum, uintptr_t lengths,
                            const Place& place) {
  GeometryForward args;
  args.tracks = viewed(tracks);
  args.zero_step = static_cast<ZeroStep>(zero_step);
  args.only_lss = only_lss;
  args.fields = pointer<void>(fields);
  args.zero_steps = pointer<int64_t>(zero_steps);
  args.direction_sum = pointer<void>(direction_sum);
  args.lengths = pointer<void>(lengths);
  py::gil_scoped_release release;
  if (place.device < 0) return GEODESIC_FAST_CPU(track_geometry_forward)(args, place.threads);
  cuda::track_geometry_forward(args, place.device, pointer<void>(place.stream));
}

void track_geometry_backward(Tracks& tracks, Tracks& gradient, int zero_step, bool only_lss,
                             uintptr_t grad_fields, uintptr_t direction_sum, uintptr_t lengths,
                             uintptr_t workspace, const Place& place) {
  GeometryBackward args;
  args.tracks = viewed(tracks);
  args.gradient = viewed(gradient);
  args.zero_step = static_cast<ZeroStep>(zero_step);
  args.only_lss = only_lss;
  args.grad_fields = pointer<void>(grad_fields);
  args.direction_sum = pointer<void>(direction_sum);
  args.lengths = pointer<void>(lengths);
  args.workspace = pointer<void>(workspace);
  py::gil_scoped_release release;
  if (place.device < 0) return GEODESIC_FAST_CPU(track_geometry_backward)(args, place.threads);
  cuda::track_geometry_backward(args, place.device, pointer<void>(place.stream));
}

// `finish`: write the numbers of the tracks instead of taking a step.
void track_accumulator(Tracks& tracks, int zero_step, bool finish, uintptr_t direction_sum,
                       uintptr_t direction, uintptr_t direction_low, uintptr_t sums, uintptr_t fields,
                       uintptr_t zero_steps, const Place& place) {
  Accumulator args;
  args.tracks = viewed(tracks);
  args.zero_step = static_cast<ZeroStep>(zero_step);
  args.direction_sum = pointer<void>(direction_sum);
  args.direction = pointer<void>(direction);
  args.direction_low = pointer<uint8_t>(direction_low);
  args.sums = pointer<double>(sums);
  args.fields = pointer<void>(fields);
  args.zero_steps = pointer<int64_t>(zero_steps);
  py::gil_scoped_release release;
  if (place.device < 0) {
    return finish ? GEODESIC_FAST_CPU(track_accumulator_finish)(args, place.threads)
                  : GEODESIC_FAST_CPU(track_accumulator_update)(args, place.threads);
  }
  const auto launch = finish ? cuda::track_accumulator_finish : cuda::track_accumulator_update;
  launch(args, place.device, pointer<void>(place.stream));
}

}  // namespace

#include "chord_deviation_bindings.h"
#include "line_deviation_bindings.h"
#include "ots_bindings.h"
#include "step_geometry_bindings.h"
#include "track_distance_nearest_track_bindings.h"

PYBIND11_MODULE(_C, m) {
  m.doc() = "The compiled engine of geodesic_fast: CPU and CUDA kernels over plain addresses.";
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
  m.attr("wide_features") = kWideFeatures;
  m.attr("cuda_archs") = cuda::architectures();
  m.def("cuda_runtime_version", &cuda::runtime_version);
  m.def("cuda_driver_version", &cuda::driver_version);
  m.def("cuda_device_count", &cuda::device_count);

  py::class_<Tracks>(m, "Tracks")
      .def(py::init(&make_tracks), py::arg("addresses"), py::arg("layer_stride"), py::arg("points"),
           py::arg("batch_size"), py::arg("batch_stride"), py::arg("features"), py::arg("dtype"));
  py::class_<Place>(m, "Place")
      .def(py::init<int, int, uintptr_t>(), py::arg("threads"), py::arg("device"), py::arg("stream"));
  m.def("track_geometry_forward", &track_geometry_forward);
  m.def("track_geometry_backward", &track_geometry_backward);
  m.def("track_accumulator", &track_accumulator);
  bind_chord_deviation(m);
  bind_line_deviation(m);
  bind_ots(m);
  bind_step_geometry(m);
  bind_track_distance_nearest_track(m);
}

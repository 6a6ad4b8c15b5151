// SPDX-License-Identifier: MIT
// Every CUDA launcher, and what a build without CUDA answers instead.
#pragma once

#include <stdexcept>

#include "lss_track_geometry.h"

namespace geodesic_fast {
namespace cuda {

#ifdef GEODESIC_FAST_CUDA_ARCHS
inline const char* architectures() { return GEODESIC_FAST_CUDA_ARCHS; }
int runtime_version();
int driver_version();
int device_count();
void track_geometry_forward(const GeometryForward& args, int device, void* stream);
void track_geometry_backward(const GeometryBackward& args, int device, void* stream);
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
#endif

}  // namespace cuda
}  // namespace geodesic_fast

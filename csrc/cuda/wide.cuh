// SPDX-License-Identifier: MIT
// lss and track_geometry for tracks wider than a team's registers.
#pragma once

#include "lss_track_geometry.h"

namespace geodesic_fast {
namespace cuda {

constexpr int kRun = 64;  // directions added up before their sum joins that of the runs before

void wide_forward(const GeometryForward& args, void* stream);
void wide_backward(const GeometryBackward& args, void* stream);

}  // namespace cuda
}  // namespace geodesic_fast

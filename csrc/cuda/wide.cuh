// SPDX-License-Identifier: MIT
// lss and track_geometry for tracks wider than a team's registers.
#pragma once

#include "lss_track_geometry.h"

namespace geodesic_fast {
namespace cuda {

void wide_forward(const GeometryForward& args, void* stream);
void wide_backward(const GeometryBackward& args, void* stream);

}  // namespace cuda
}  // namespace geodesic_fast

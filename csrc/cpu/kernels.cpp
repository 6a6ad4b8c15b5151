// SPDX-License-Identifier: MIT
// The table of the kernels of one instruction set.
#include "kernels.h"

namespace geodesic_fast {
namespace GEODESIC_FAST_ISA {

extern const Kernels kKernels = {GEODESIC_FAST_KERNELS(GEODESIC_FAST_ENTRY)
                                     GEODESIC_FAST_CPU_KERNELS(GEODESIC_FAST_ENTRY)};

}  // namespace GEODESIC_FAST_ISA
}  // namespace geodesic_fast

// SPDX-License-Identifier: MIT
// The instructions that kernels write as inline assembly, by their PTX names: translate.py calls them so.
#pragma once

#include "cuda_runtime.h"

namespace cuda_on_cpu {

void work_of_ldmatrix_x4(const uint64_t (*in)[kWords], uint64_t (*out)[kWords], int);
void work_of_mma_bf16(const uint64_t (*in)[kWords], uint64_t (*out)[kWords], int);
void work_of_mma_f16(const uint64_t (*in)[kWords], uint64_t (*out)[kWords], int);

inline void ldmatrix_sync_aligned_m8n8_x4_shared_b16(Site site, uint32_t& r0, uint32_t& r1, uint32_t& r2,
                                                     uint32_t& r3, unsigned address) {
  const uint64_t in = address;
  uint32_t out[4];
  warp_together(site, 0xffffffffu, work_of_ldmatrix_x4, 0, &in, sizeof(in), out, sizeof(out));
  r0 = out[0], r1 = out[1], r2 = out[2], r3 = out[3];
}

inline void mov_b32(Site, int& to, int from) { to = from; }

struct MmaOperands {
  uint32_t a[4], b[2];
  float c[4];
};
inline void multiply_add(Site site, WarpWork work, float& d0, float& d1, float& d2, float& d3,
                         MmaOperands in) {
  float out[4];
  warp_together(site, 0xffffffffu, work, 0, &in, sizeof(in), out, sizeof(out));
  d0 = out[0], d1 = out[1], d2 = out[2], d3 = out[3];
}
inline void mma_sync_aligned_m16n8k16_row_col_f32_bf16_bf16_f32(Site site, float& d0, float& d1, float& d2,
                                                                float& d3, uint32_t a0, uint32_t a1,
                                                                uint32_t a2, uint32_t a3, uint32_t b0,
                                                                uint32_t b1, float c0, float c1, float c2,
                                                                float c3) {
  multiply_add(site, work_of_mma_bf16, d0, d1, d2, d3, {{a0, a1, a2, a3}, {b0, b1}, {c0, c1, c2, c3}});
}
inline void mma_sync_aligned_m16n8k16_row_col_f32_f16_f16_f32(Site site, float& d0, float& d1, float& d2,
                                                              float& d3, uint32_t a0, uint32_t a1,
                                                              uint32_t a2, uint32_t a3, uint32_t b0,
                                                              uint32_t b1, float c0, float c1, float c2,
                                                              float c3) {
  multiply_add(site, work_of_mma_f16, d0, d1, d2, d3, {{a0, a1, a2, a3}, {b0, b1}, {c0, c1, c2, c3}});
}

}  // namespace cuda_on_cpu

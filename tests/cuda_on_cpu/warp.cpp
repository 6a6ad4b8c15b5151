// SPDX-License-Identifier: MIT
// Warp-wide instructions: shuffles, votes, and the tensor cores' loads and products.
#include <algorithm>
#include <cmath>
#include <cstdlib>

#include "cuda_bf16.h"
#include "cuda_fp16.h"
#include "inline_ptx.h"
#include "sanitizers.h"

namespace cuda_on_cpu {

using In = const uint64_t (*)[kWords];
using Out = uint64_t (*)[kWords];

void work_of_shuffle_xor(In in, Out out, int lanes) {
  for (int lane = 0; lane < kWarpSize; ++lane) out[lane][0] = in[lane ^ lanes][0];
}
// All lanes must name the same lane here; each keeps its own name in CUDA.
void work_of_shuffle_from(In in, Out out, int from) {
  for (int lane = 0; lane < kWarpSize; ++lane) out[lane][0] = in[from][0];
}
void work_of_ballot(In in, Out out, int) {
  uint64_t all = 0;
  for (int lane = 0; lane < kWarpSize; ++lane) all |= in[lane][0] << lane;
  for (int lane = 0; lane < kWarpSize; ++lane) out[lane][0] = all;
}

float rounded_product(float a, float b) { return a * b; }
double rounded_product(double a, double b) { return a * b; }

// Lane 8 i + r gives the address of row r of matrix i; lane l receives elements 2 (l % 4) and the next of
// row l / 4 of each.
void work_of_ldmatrix_x4(In in, Out out, int) {
  const char* rows[kWarpSize];
  for (int lane = 0; lane < kWarpSize; ++lane) {
    rows[lane] = at_shared_address(static_cast<unsigned>(in[lane][0]), 16, {"ldmatrix", lane});
    read_seen(rows[lane], 16);
  }
  for (int lane = 0; lane < kWarpSize; ++lane) {
    uint32_t* to = reinterpret_cast<uint32_t*>(out[lane]);
    for (int i = 0; i < 4; ++i) to[i] = reinterpret_cast<const uint32_t*>(rows[8 * i + lane / 4])[lane % 4];
  }
}

namespace {

// How a tensor core adds up: products are exact, all terms are aligned with the largest one, and what lies
// below its 24 bits is cut off. sm_8x does so for 8 products at a time, later ones for 16.
int products_at_once() {
  const char* arch = getenv("CUDA_ON_CPU_ARCH");
  return arch != nullptr && arch[3] == '8' ? 8 : 16;
}
float truncated_sum(const double* terms, int count) {
  double largest = 0, plain = 0;
  for (int i = 0; i < count; ++i) largest = std::max(largest, std::fabs(terms[i])), plain += terms[i];
  if (!(largest > 0) || std::isinf(largest) || plain != plain) return static_cast<float>(plain);
  const double quantum = std::ldexp(1.0, std::ilogb(largest) - 23);
  double sum = 0;
  for (int i = 0; i < count; ++i) sum += std::trunc(terms[i] / quantum) * quantum;
  if (std::fabs(sum) >= 0x1p128) return static_cast<float>(sum);
  const float nearest = static_cast<float>(sum);
  return std::fabs(static_cast<double>(nearest)) > std::fabs(sum) ? std::nextafter(nearest, 0.0f) : nearest;
}

// The fragments of m16n8k16 as the PTX manual lays them out, g = lane / 4, t = lane % 4: register r of A
// holds row g + 8 (r % 2), columns 2 t + 8 (r / 2) and the next; register r of B column g, rows 2 t + 8 r and
// the next; element i of C and D row g + 8 (i / 2), column 2 t + i % 2.
template <class Widen>
void mma(In in, Out out, const Widen& widen) {
  static const int kAtOnce = products_at_once();
  float a[16][16], b[16][8], c[16][8];
  for (int lane = 0; lane < kWarpSize; ++lane) {
    const auto& from = *reinterpret_cast<const MmaOperands*>(in[lane]);
    const int g = lane / 4, t = lane % 4;
    for (int half = 0; half < 2; ++half) {
      for (int r = 0; r < 4; ++r) {
        a[g + 8 * (r % 2)][2 * t + 8 * (r / 2) + half] = widen(static_cast<uint16_t>(from.a[r] >> 16 * half));
      }
      for (int r = 0; r < 2; ++r)
        b[2 * t + 8 * r + half][g] = widen(static_cast<uint16_t>(from.b[r] >> 16 * half));
    }
    for (int i = 0; i < 4; ++i) c[g + 8 * (i / 2)][2 * t + i % 2] = from.c[i];
  }
  for (int row = 0; row < 16; ++row) {
    for (int column = 0; column < 8; ++column) {
      for (int first = 0; first < 16; first += kAtOnce) {
        double terms[17] = {c[row][column]};
        for (int k = 0; k < kAtOnce; ++k)
          terms[k + 1] = static_cast<double>(a[row][first + k]) * b[first + k][column];
        c[row][column] = truncated_sum(terms, kAtOnce + 1);
      }
    }
  }
  for (int lane = 0; lane < kWarpSize; ++lane) {
    float* to = reinterpret_cast<float*>(out[lane]);
    for (int i = 0; i < 4; ++i) to[i] = c[lane / 4 + 8 * (i / 2)][lane % 4 * 2 + i % 2];
  }
}

}  // namespace

void work_of_mma_bf16(In in, Out out, int) {
  mma(in, out, [](uint16_t bits) { return __bfloat162float({bits}); });
}
void work_of_mma_f16(In in, Out out, int) {
  mma(in, out, [](uint16_t bits) { return __half2float({same_bits<_Float16>(bits)}); });
}

}  // namespace cuda_on_cpu

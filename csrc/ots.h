// SPDX-License-Identifier: MIT
// Optimal transport score: what the passes over all m x m pairs take and return, on either device.
// Everything is in inner products S_ij = <x_i, y_j> of centred points: the squared distance is
// |x_i|^2 + |y_j|^2 - 2 S_ij, so duals (u, v) of the costs become potentials a_i = (|x_i|^2 - u_i) / 2 and
// b_j = (|y_j|^2 - v_j) / 2, feasible when a_i + b_j >= S_ij, and slack a_i + b_j - S_ij is half a reduced
// cost.
#pragma once

#include <cstdint>

namespace geodesic_fast {

// Rows r..r+rows of S, all columns.
struct ProductTile {
  const float* product;  // (rows, cols)
  int64_t rows, cols, stride;
};

// One annealed Sinkhorn iteration: rows are normalised, columns are summed for the caller to normalise.
struct SoftminArgs {
  const float* b;           // (cols)
  const float* log_supply;  // (rows), what each row is normalised to
  float epsilon;
  float* a;         // (rows), out: a_i = epsilon (log sum_j exp((S_ij - b_j) / epsilon) - log supply_i)
  float* col_sum;   // (cols), added to: sum_i exp((S_ij - a_i - b_j) / epsilon)
  float* col_best;  // (cols), raised to: max_i S_ij - a_i
};

// Lists the columns of each row whose product comes near or above the potentials: j with t_ij >= threshold_i,
// where t_ij = S_ij - b_j + p_i q_j and best_i = max_j t_ij. With keep = 0, threshold_i = low_i + theta
// max(0, best_i - low_i). With keep = k, it is the k-th largest maximum of 64 parts of the row, so that at
// least k columns are listed and few more.
constexpr int kRowParts = 64;
struct ListArgs {
  const float *b, *q;    // (cols)
  const float *p, *low;  // (rows)
  float theta;
  int keep;     // at most kRowParts
  int limit;    // list at most this many columns a row, a run of those found that differs from row to row; 0:
                // all
  float* best;  // (rows), out
  int64_t *start,
      *count;  // (rows), out: where the row's columns lie in `columns`; count is exact even without room
  int32_t* columns;  // (capacity), out
  int64_t capacity;
  int64_t* used;  // (1), in and out: how many were found so far, beyond the capacity too
};

// Squared distances |(x_i - x_shift) - (y_j - y_shift)|^2 of listed pairs, in float64.
struct EdgeArgs {
  const void *x, *y;  // (m, d), features contiguous, float32 or float64
  bool is_double;
  int64_t x_stride, y_stride, d;
  const double *x_shift, *y_shift;  // (d)
  const int64_t* row;               // (edges)
  const int32_t* col;               // (edges)
  int64_t edges;
  double* cost;  // (edges), out
};

}  // namespace geodesic_fast

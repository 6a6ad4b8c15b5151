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
// Sums of kMassRows rows each are added up as whole numbers, which have one sum in whatever order they come:
// of threads, of tiles, of machines.
constexpr double kMassUnits = 0x1p40;
constexpr int64_t kMassRows = 32;
struct SoftminArgs {
  ProductTile tile;
  const float* b;           // (cols)
  const float* log_supply;  // (rows), what each row is normalised to
  float epsilon;
  float* a;          // (rows), out: a_i = epsilon (log sum_j exp((S_ij - b_j) / epsilon) - log supply_i)
  int64_t* col_sum;  // (cols), added to: sum_i exp((S_ij - a_i - b_j) / epsilon), times kMassUnits
  float* col_best;   // (cols), raised to: max_i S_ij - a_i
};

// The tightest column potentials, and the sweep that proves the identity.
struct ColumnBest {
  ProductTile tile;
  const float* a;  // (rows)
  float* best;     // (cols), raised to: max_i S_ij - a_i
};

// Lists the columns of each row whose product comes near or above the potentials: j with t_ij >= threshold_i,
// where t_ij = S_ij - b_j + p_i q_j and best_i = max_j t_ij. With keep = 0, threshold_i = low_i + theta
// max(0, best_i - low_i). With keep = k, it is the k-th largest maximum of 64 parts of the row, so that at
// least k columns are listed and few more.
constexpr int kRowParts = 64;
struct ListArgs {
  ProductTile tile;
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

// Assignments on all pairs of many problems, of m points each, and whether each is the only optimum.
enum DenseStatus : int64_t {
  kDenseNew = 0,
  kDenseBegun = 1,    // part of the rows have their columns; the next call goes on
  kDenseOptimum = 2,  // an optimum up to rounding, of which no more is known
  kDenseUnique = 3,
  kDenseOutside = 4  // coordinates whose squares or products leave the range, or NaN
};
constexpr int64_t kDenseColumns = 16;  // columns of costs come in whole groups
struct DenseProblems {
  const void *x, *y;  // (problems, m, d), float32 or float64
  bool is_double;
  int64_t problems, m, d, stride;  // stride: m, up to whole groups
  int64_t steps;                   // rows of costs looked at for a problem before it waits for the next call
  double* work;                    // (problems, work_each())
  int64_t *column, *status;        // (problems, m) of each row, out; (problems), kDenseNew at first
  double *u, *v;                   // (problems, m), out: u_i + v_j <= |x_i - y_j|^2
  double *own, *assigned, *gap;    // (problems), out: mean costs as given and the least, its gap to u and v

  int64_t work_each() const { return (m + 1) * stride + 2 * d + 4 * m; }

  // -<x_i - s, y_j - t>, (m, stride), with s and t the means of x and y, and the columns' prices, (stride).
  double* cost(int64_t problem) const { return work + problem * work_each(); }
  double* price(int64_t problem) const { return cost(problem) + m * stride; }
  double* shift(int64_t problem, int side) const { return price(problem) + stride + side * d; }
  // |x_i - s|^2 or |y_j - t|^2, and <x_i - s, s - t> or <y_j - t, s - t>; (m) each.
  double* square(int64_t problem, int side) const { return shift(problem, 2) + side * m; }
  double* along(int64_t problem, int side) const { return square(problem, 2) + side * m; }
};

}  // namespace geodesic_fast

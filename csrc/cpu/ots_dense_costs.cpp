// SPDX-License-Identifier: MIT
// Products of all pairs of centred points in float64, for problems so small that all of them are wanted.
#include "cpu/dense_points.h"
#include "cpu/parallel.h"
#include "cpu/transpose.h"
#include "kernels.h"

namespace geodesic_fast {
namespace GEODESIC_FAST_ISA {
namespace {

// As many sums as the vector registers hold, beside the vectors that are multiplied.
constexpr int kVectors = static_cast<int>(kDenseColumns / kLanes<double>);
#if defined(__AVX512F__)
constexpr int kTileRows = 12;
#elif defined(__AVX2__) || defined(__aarch64__)
constexpr int kTileRows = 3;
#else
constexpr int kTileRows = 1;
#endif
constexpr int64_t kSlice = 128;     // features at a time
constexpr int64_t kMostRows = 192;  // of x that share a packed slice of y; a multiple of kTileRows

constexpr double kFarthest = 0x1p100;  // coordinates up to which no square or product leaves the range

// Means of x and y, the squares of what is left, and its products with the difference of the means. Returns
// whether all of them are in range.
template <class T>
bool centre(const DenseProblems& args, int64_t problem) {
  const int64_t m = args.m, d = args.d;
  double *s = args.shift(problem, 0), *t = args.shift(problem, 1);
  bool inside = true;  // which no NaN is
  for (int side = 0; side < 2; ++side) {
    const T* points = points_of<T>(args, side, problem);
    double* mean = side == 0 ? s : t;
    for (int64_t k = 0; k < d; ++k) mean[k] = 0.0;
    for (int64_t i = 0; i < m; ++i) {
      for (int64_t k = 0; k < d; ++k) mean[k] += static_cast<double>(points[i * d + k]);
    }
    for (int64_t k = 0; k < d; ++k) {
      mean[k] /= static_cast<double>(m);
      inside &= __builtin_fabs(mean[k]) <= kFarthest;
    }
  }
  for (int side = 0; side < 2; ++side) {
    const T* points = points_of<T>(args, side, problem);
    const double* mean = side == 0 ? s : t;
    for (int64_t i = 0; i < m; ++i) {
      D square = {}, along = {};
      for (int64_t k = 0; k < d; k += kLane) {
        const int64_t count = d - k < kLane ? d - k : kLane;
        const D near = widened(points + i * d + k, count) - widened(mean + k, count);
        square += near * near;
        along += near * (widened(s + k, count) - widened(t + k, count));
      }
      args.square(problem, side)[i] = sum_lanes<double>(square);
      args.along(problem, side)[i] = sum_lanes<double>(along);
      inside &= args.square(problem, side)[i] <= kFarthest * kFarthest;
    }
  }
  return inside;
}

// Rows first..last of x less s, features from..from+width, row by row; rows behind them are zero.
template <class T>
void pack_rows(const DenseProblems& args, int64_t problem, int64_t first, int64_t last, int64_t from,
               int64_t width, double* packed) {
  const T* points = points_of<T>(args, 0, problem);
  const double* mean = args.shift(problem, 0);
  const int64_t rows = (last - first + kTileRows - 1) / kTileRows * kTileRows;
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t k = 0; k < width; k += kLane) {
      const int64_t left = args.d - from - k, count = left < kLane ? left : kLane;
      D near = {};
      if (first + r < last) {
        near = widened(points + (first + r) * args.d + from + k, count) - widened(mean + from + k, count);
      }
      store(packed + r * kSlice + k, near);
    }
  }
}

// Columns of y less t in groups, feature by feature; columns behind m are zero.
template <class T>
void pack_columns(const DenseProblems& args, int64_t problem, int64_t from, int64_t width, double* packed) {
  const T* points = points_of<T>(args, 1, problem);
  const double* mean = args.shift(problem, 1);
  for (int64_t j = 0; j < args.stride; j += kLane) {
    double* to = packed + j / kDenseColumns * kDenseColumns * kSlice + j % kDenseColumns;
    for (int64_t k = 0; k < width; k += kLane) {
      const int64_t left = args.d - from - k, count = left < kLane ? left : kLane;
      const D shift = widened(mean + from + k, count);
      D square[kLane];
      for (int64_t c = 0; c < kLane; ++c) {
        square[c] = D{};
        if (j + c < args.m) square[c] = widened(points + (j + c) * args.d + from + k, count) - shift;
      }
      transpose<double>(square);
      for (int64_t c = 0; c < kLane; ++c) store(to + (k + c) * kDenseColumns, square[c]);
    }
  }
}

void subtract_products(const double* rows, const double* columns, int64_t width, int64_t count, bool begin,
                       int64_t stride, double* cost) {
  D sums[kTileRows][kVectors] = {};
  for (int64_t k = 0; k < width; ++k) {
    D right[kVectors];
    for (int c = 0; c < kVectors; ++c) right[c] = load(columns + k * kDenseColumns + c * kLane);
    for (int r = 0; r < kTileRows; ++r) {
      const D left = broadcast(rows[r * kSlice + k]);
      for (int c = 0; c < kVectors; ++c) sums[r][c] += left * right[c];
    }
  }
  for (int r = 0; r < kTileRows && r < count; ++r) {
    for (int c = 0; c < kVectors; ++c) {
      double* to = cost + r * stride + c * kLane;
      store(to, (begin ? D{} : load(to)) - sums[r][c]);
    }
  }
}

template <class T>
void multiply(const DenseProblems& args, int64_t problem, int64_t first, int64_t last, char* scratch) {
  double* rows = reinterpret_cast<double*>(scratch);
  double* columns = rows + (kMostRows + kTileRows) * kSlice;
  for (int64_t from = 0; from < args.d; from += kSlice) {
    const int64_t left = args.d - from;
    const int64_t width = ((left < kSlice ? left : kSlice) + kLane - 1) / kLane * kLane;
    pack_rows<T>(args, problem, first, last, from, width, rows);
    pack_columns<T>(args, problem, from, width, columns);
    for (int64_t j = 0; j < args.stride; j += kDenseColumns) {
      for (int64_t i = first; i < last; i += kTileRows) {
        subtract_products(rows + (i - first) * kSlice, columns + j * kSlice, width, last - i, from == 0,
                          args.stride, args.cost(problem) + i * args.stride + j);
      }
    }
  }
}

template <class T>
void costs_of(const DenseProblems& args, int threads) {
  parallel_for(args.problems, 1, threads, [&](int64_t begin, int64_t end, int) {
    for (int64_t problem = begin; problem < end; ++problem) {
      if (!centre<T>(args, problem)) args.status[problem] = kDenseOutside;
    }
  });
  const int64_t shared = args.problems < threads ? threads : 1;  // by so many threads
  int64_t height = (args.m + shared - 1) / shared;
  height = height < kMostRows ? (height + kTileRows - 1) / kTileRows * kTileRows : kMostRows;
  const int64_t blocks = (args.m + height - 1) / height;
  Scratch scratch(threads, (kMostRows + kTileRows + args.stride) * kSlice * int64_t{sizeof(double)});
  parallel_for(args.problems * blocks, 1, threads, [&](int64_t begin, int64_t end, int thread) {
    for (int64_t item = begin; item < end; ++item) {
      if (args.status[item / blocks] == kDenseOutside) continue;
      const int64_t first = item % blocks * height, last = first + height;
      multiply<T>(args, item / blocks, first, last < args.m ? last : args.m, scratch.part(thread));
    }
  });
}

}  // namespace

// Memory: x and y once for each block of rows; the costs written once for every 128 features. Work: 2 m^2 d a
// problem. Numbers: float64 products of differences, each sum errs by at most d 2^-53 |x_i - s| |y_j - t|.
// Bound: arithmetic.
void ots_dense_costs(const DenseProblems& args, const Place& place) {
  if (args.is_double) {
    costs_of<double>(args, place.threads);
  } else {
    costs_of<float>(args, place.threads);
  }
}

}  // namespace GEODESIC_FAST_ISA
}  // namespace geodesic_fast

// SPDX-License-Identifier: MIT
// line_deviation, forward.
// Memory: the tracks are read once, (n+1) m d values; their unit steps stay in the second-level cache.
// Work:   n^2 / 2 multiply-adds a feature, and 6 operations more a value.
// Numbers: products in float32 lanes (float64 for float64 tracks), sums over tracks in float64.
// Bound:  multiply-adds from about 20 steps on, read bandwidth below.
#include "kernels.h"
#include "panel_products.h"
#include "track_panel.h"

namespace geodesic_fast {
namespace GEODESIC_FAST_ISA {
namespace {

// <u, w> over |u| |w|, both about 1: the rounding of the two is the same where they point the same way.
double cosine_of(double product, double squares) {
  const double cosine = product / std::sqrt(squares);
  return cosine > 1 ? 1 : cosine < -1 ? -1 : cosine;
}

template <class T>
void add_products(const TrackPanel<T>& panel, double* sums) {
  const int64_t n = panel.steps();
  panel.over_steps([&](int64_t begin, int64_t end, int) {
    gram(panel.rows(), n, panel.columns(), begin, end,
         [&](int64_t k, int64_t l, const auto& products, int count) {
           for (int c = 0; c < count; ++c) sums[k * n + l + c] += products[c];
         });
  });
}

template <class T>
void count_missing(const TrackPanel<T>& panel, int64_t* missing) {
  const int64_t n = panel.steps();
  for (int64_t t = 0; t < panel.tracks(); ++t) {
    bool any = false;
    for (int64_t k = 0; k < n; ++k) any = any || panel.length(t, k).value == 0;
    if (!any) continue;
    panel.over_steps([&](int64_t begin, int64_t end, int) {
      for (int64_t k = begin; k < end; ++k) {
        const bool absent = panel.length(t, k).value == 0;
        for (int64_t l = 0; l <= k; ++l) missing[k * n + l] += absent || panel.length(t, l).value == 0;
      }
    });
  }
}

// Parts are added in their order, so that a result is the same from run to run.
void write_sums(const LineDeviation& args, const Scratch& scratch, int parts) {
  const int64_t n = args.tracks.steps();
  for (int64_t k = 0; k < n; ++k) {
    for (int64_t l = 0; l <= k; ++l) {
      double sum = 0;
      int64_t count = args.tracks.tracks;
      for (int part = 0; part < parts; ++part) {
        const double* sums = reinterpret_cast<const double*>(scratch.part(part));
        sum += sums[k * n + l];
        count -= reinterpret_cast<const int64_t*>(sums + n * n)[k * n + l];
      }
      args.sums[k * n + l] = sum;
      args.counts[k * n + l] = args.counts[l * n + k] = count;
    }
  }
  const auto square = [&](int64_t k) { return args.sums[k * n + k] / double(args.counts[k * n + k]); };
  for (int64_t k = 0; k < n; ++k) {
    for (int64_t l = 0; l < k; ++l) {
      const double count = double(args.counts[k * n + l]), sum = args.sums[k * n + l];
      args.sums[k * n + l] = args.sums[l * n + k] =
          count == 0 ? sum : cosine_of(sum / count, square(k) * square(l)) * count;
    }
  }
  for (int64_t k = 0; k < n; ++k) {
    double& own = args.sums[k * n + k];
    if (own == own) own = double(args.counts[k * n + k]);
  }
}

template <class T>
void mean_over_tracks(const LineDeviation& args, int threads) {
  using Acc = typename AccOf<T>::type;
  const int64_t n = args.tracks.steps(), matrices = 2 * n * n * static_cast<int64_t>(sizeof(double));
  const PanelPlan plan = plan_panels<Acc>(args.tracks, false, threads);
  const Scratch scratch(plan.parts, matrices + TrackPanel<T>::scratch_bytes(args.tracks, plan));
  parallel_for(plan.parts, 1, plan.parts, [&](int64_t part, int64_t, int) {
    double* sums = reinterpret_cast<double*>(scratch.part(part));
    int64_t* missing = reinterpret_cast<int64_t*>(sums + n * n);
    std::memset(sums, 0, matrices);
    TrackPanel<T> panel(args.tracks, plan, scratch.part(part) + matrices);
    for (int64_t group = plan.groups * part / plan.parts; group < plan.groups * (part + 1) / plan.parts;
         ++group) {
      panel.open(group);
      for (int64_t feature = 0; feature < args.tracks.features; feature += plan.slice) {
        panel.fill(feature);
        add_products(panel, sums);
      }
      count_missing(panel, missing);
    }
  });
  write_sums(args, scratch, plan.parts);
}

// Turns the products of a track, below the diagonal, into its deviations.
template <class T, class Acc = typename AccOf<T>::type>
void finish_track(const TrackPanel<T>& panel, Acc undefined, Acc* matrix) {
  const int64_t n = panel.steps();
  for (int64_t k = 0; k < n; ++k) {
    for (int64_t l = 0; l <= k; ++l) {
      const bool defined = matrix[k * n + l] == matrix[k * n + l];  // NaN stays NaN beside a zero step
      const bool absent = defined && (panel.length(0, k).value == 0 || panel.length(0, l).value == 0);
      if (k == l) continue;
      const double square = double(matrix[k * n + k]) * double(matrix[l * n + l]);
      const double dev = 1 - cosine_of(matrix[k * n + l], square);
      matrix[l * n + k] = absent ? undefined : Acc(dev);  // the square products of step l are read until then
    }
  }
  for (int64_t k = 0; k < n; ++k) {
    for (int64_t l = 0; l < k; ++l) matrix[k * n + l] = matrix[l * n + k];
    const Acc own = matrix[k * n + k];
    matrix[k * n + k] = own != own ? own : panel.length(0, k).value == 0 ? undefined : Acc(0);
  }
}

template <class T>
void each_track(const LineDeviation& args, int threads) {
  using Acc = typename AccOf<T>::type;
  const int64_t n = args.tracks.steps();
  const Acc undefined = args.zero_step == ZeroStep::kKeep ? Acc(1) : Acc(NAN);
  const PanelPlan plan = plan_panels<Acc>(args.tracks, true, threads);
  const Scratch scratch(plan.parts, TrackPanel<T>::scratch_bytes(args.tracks, plan));
  parallel_for(plan.groups, 1, plan.parts, [&](int64_t track, int64_t, int thread) {
    TrackPanel<T> panel(args.tracks, plan, scratch.part(thread));
    Acc* matrix = static_cast<Acc*>(args.deviation) + track * n * n;
    std::memset(matrix, 0, n * n * sizeof(Acc));
    panel.open(track);
    for (int64_t feature = 0; feature < args.tracks.features; feature += plan.slice) {
      panel.fill(feature);
      panel.over_steps([&](int64_t begin, int64_t end, int) {
        gram(panel.rows(), n, panel.columns(), begin, end,
             [&](int64_t k, int64_t l, const auto& products, int count) {
               for (int c = 0; c < count; ++c) matrix[k * n + l + c] += products[c];
             });
      });
    }
    finish_track(panel, undefined, matrix);
  });
}

}  // namespace

void line_deviation_forward(const LineDeviation& args, const Place& place) {
  with_dtype(args.tracks.dtype, [&](auto zero) {
    using T = decltype(zero);
    args.deviation != nullptr ? each_track<T>(args, place.threads) : mean_over_tracks<T>(args, place.threads);
  });
}

}  // namespace GEODESIC_FAST_ISA
}  // namespace geodesic_fast

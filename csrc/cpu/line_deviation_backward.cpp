// SPDX-License-Identifier: MIT
// line_deviation, backward.
// Memory: the tracks are read and the gradient written once; unit steps and their mixtures stay in the cache.
// Work:   n^2 multiply-adds a feature; twice that where a track is wider than a slice of its panel, since the
//         projection needs all features first.
// Numbers: float32 lanes (float64 for float64 tracks), projections in float64.
// Bound:  multiply-adds.
#include "kernels.h"
#include "panel_products.h"
#include "track_panel.h"

namespace geodesic_fast {
namespace GEODESIC_FAST_ISA {
namespace {

template <class T>
class BackwardPass {
  using Acc = typename AccOf<T>::type;

 public:
  BackwardPass(const LineDeviationBackward& args, const PanelPlan& plan, char* scratch)
      : args_(args),
        plan_(plan),
        n_(args.tracks.steps()),
        panel_(args.tracks, plan, scratch + own_bytes(args, plan)) {
    mixed_ = reinterpret_cast<Acc*>(scratch);
    along_ = reinterpret_cast<double*>(mixed_ + n_ * TrackPanel<T>::widest(plan));
  }

  static int64_t own_bytes(const LineDeviationBackward& args, const PanelPlan& plan) {
    const int64_t n = args.tracks.steps(), values = n * TrackPanel<T>::widest(plan);
    const int64_t bytes =
        values * static_cast<int64_t>(sizeof(Acc)) + plan.together * n * static_cast<int64_t>(sizeof(double));
    return (bytes + 63) / 64 * 64;
  }
  static int64_t scratch_bytes(const LineDeviationBackward& args, const PanelPlan& plan) {
    return own_bytes(args, plan) + TrackPanel<T>::scratch_bytes(args.tracks, plan);
  }

  void run(int64_t group) {
    panel_.open(group);
    std::memset(along_, 0, plan_.together * n_ * sizeof(double));
    const bool sliced = plan_.slice < args_.tracks.features;
    for (int64_t feature = 0; feature < args_.tracks.features; feature += plan_.slice) {
      mix_slice(feature);
      panel_.over_steps([&](int64_t begin, int64_t end, int) { measure_along(begin, end); });
      if (!sliced) write_slice(feature);
    }
    for (int64_t feature = 0; sliced && feature < args_.tracks.features; feature += plan_.slice) {
      mix_slice(feature);
      write_slice(feature);
    }
  }

 private:
  Acc* mixed(int64_t step, int64_t t) const { return mixed_ + step * panel_.columns() + t * panel_.width(); }

  // h_k = sum_l weights_kl u_l
  void mix_slice(int64_t feature) {
    panel_.fill(feature);
    const Acc* weights =
        static_cast<const Acc*>(args_.weights) + (args_.each ? panel_.first_track() * n_ * n_ : 0);
    leave_out_unweighted(weights);
    panel_.over_steps([&](int64_t begin, int64_t end, int) {
      mix(weights, panel_.rows(), n_, panel_.columns(), begin, end, mixed_);
    });
  }

  // Steps of no pair that counts may hold NaN, which 0 times NaN would carry on.
  void leave_out_unweighted(const Acc* weights) {
    panel_.over_steps([&](int64_t begin, int64_t end, int) {
      for (int64_t k = begin; k < end; ++k) {
        bool counts = false;
        for (int64_t l = 0; l < n_; ++l) counts = counts || weights[k * n_ + l] != 0;
        if (!counts) std::memset(panel_.row(k), 0, panel_.columns() * sizeof(Acc));
      }
    });
  }

  // <h_k, u_k>, so far
  void measure_along(int64_t begin, int64_t end) {
    for (int64_t k = begin; k < end; ++k) {
      for (int64_t t = 0; t < panel_.tracks(); ++t) {
        const Acc *h = mixed(k, t), *u = panel_.row(k) + t * panel_.width();
        along_[t * n_ + k] += dot_rows(h, u, panel_.width());
      }
    }
  }

  void write_slice(int64_t feature) {
    panel_.over_steps([&](int64_t begin, int64_t end, int) { project(begin, end); });
    panel_.over_steps([&](int64_t begin, int64_t end, int) {
      for (int64_t layer = begin; layer < end; ++layer) write_layer(layer, feature);
      if (end == n_) write_layer(n_, feature);
    });
  }

  // g_k = (h_k - <h_k, u_k> u_k) / s_k, in place of h_k
  void project(int64_t begin, int64_t end) {
    for (int64_t k = begin; k < end; ++k) {
      for (int64_t t = 0; t < panel_.tracks(); ++t) {
        const Length length = panel_.length(t, k);
        const Acc along = Acc(along_[t * n_ + k]);
        const Acc inverse = length.value != 0 ? Acc(1 / length.value / length.unit) : Acc(0);
        Acc *h = mixed(k, t), *u = panel_.row(k) + t * panel_.width();
        for (int64_t j = 0; j < panel_.width(); ++j) {
          const Acc off = h[j] - along * u[j];
          h[j] = off == 0 ? Acc(0) : off * inverse;  // an unweighted step may have no length
        }
      }
    }
  }

  // gradient of x^(l) = g_l - g_(l+1)
  void write_layer(int64_t layer, int64_t feature) {
    for (int64_t t = 0; t < panel_.tracks(); ++t) {
      const Acc* before = layer > 0 ? mixed(layer - 1, t) : nullptr;
      const Acc* after = layer < n_ ? mixed(layer, t) : nullptr;
      T* to = row_of<T>(args_.gradient, layer, args_.gradient.offset(panel_.first_track() + t)) + feature;
      for (int64_t j = 0; j < panel_.width(); j += kLanes<Acc>) {
        const int64_t count = smaller(panel_.width() - j, kLanes<Acc>);
        Vector<Acc> g = {};
        if (before != nullptr) g += load_row(before, j, count);
        if (after != nullptr) g -= load_row(after, j, count);
        count == kLanes<Acc> ? Memory<T>::store(to + j, g) : store_tail(to + j, g, count);
      }
    }
  }

  const LineDeviationBackward& args_;
  const PanelPlan& plan_;
  int64_t n_;
  TrackPanel<T> panel_;
  Acc* mixed_;     // (n, columns), h and then g
  double* along_;  // (tracks together, n)
};

template <class T>
void backward(const LineDeviationBackward& args, int threads) {
  using Acc = typename AccOf<T>::type;
  const PanelPlan plan = plan_panels<Acc>(args.tracks, args.each, threads);
  const Scratch scratch(plan.parts, BackwardPass<T>::scratch_bytes(args, plan));
  parallel_for(plan.groups, 1, plan.parts, [&](int64_t group, int64_t, int thread) {
    BackwardPass<T>(args, plan, scratch.part(thread)).run(group);
  });
}

}  // namespace

void line_deviation_backward(const LineDeviationBackward& args, const Place& place) {
  with_dtype(args.tracks.dtype, [&](auto zero) { backward<decltype(zero)>(args, place.threads); });
}

}  // namespace GEODESIC_FAST_ISA
}  // namespace geodesic_fast

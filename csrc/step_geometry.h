// SPDX-License-Identifier: MIT
// Step geometry: what its kernels take and return, on either device, and the terms of its gradient.
#pragma once

#include "tracks_view.h"

namespace geodesic_fast {

// Rows of `fields`, each (n, m), step l at l - 1. The turn between steps l and l+1 stands at l - 1; nothing
// at the last.
enum StepField : int {
  kStepLength = 0,
  kRelativeLength,
  kStateCosine,
  kUpdateCosine,
  kTurningCosine,
  kStepFieldCount
};

// Rows of `kept`, each (n+1, m): |x^(l)| at l, and s_l at l, whose row starts with zeros.
enum StepKept : int { kStateNorm = 0, kKeptLength, kStepKeptCount };

// Acc is float, or double for float64 tracks.
struct StepGeometry {
  TracksView tracks;
  void* fields = nullptr;  // (kStepFieldCount, n, m) Acc, out
  double* kept = nullptr;  // (kStepKeptCount, n+1, m), out, for backward; may be null
};

// With u_l = v_l / s_l and e_l = x^(l) / |x^(l)|, the gradient of x^(l) is a sum of these unit vectors.
enum StepTerm : int {
  kOnStepBefore = 0,  // u_(l-1)
  kOnStep,            // u_l
  kOnNextStep,        // u_(l+1)
  kOnStepBeyond,      // u_(l+2)
  kOnStateBefore,     // e_(l-1)
  kOnState,           // e_l
  kOnNextState,       // e_(l+1)
  kStepTermCount
};

struct StepGeometryBackward {
  const void* grad_fields = nullptr;  // (kStepFieldCount, n, m) Acc
  TracksView tracks;
  const void* fields = nullptr;  // (kStepFieldCount, n, m) Acc
  const double* kept = nullptr;  // (kStepKeptCount, n+1, m)
  TracksView gradient;
  double* workspace = nullptr;  // (kStepTermCount, n+1, m) on a GPU, else unused
};

inline int64_t workspace_bytes(const StepGeometryBackward& args, int) {
  return kStepTermCount * args.tracks.points * args.tracks.tracks * static_cast<int64_t>(sizeof(double));
}

GEODESIC_FAST_INLINE double within_one(double cosine) {
  return cosine > 1 ? 1.0 : cosine < -1 ? -1.0 : cosine;  // NaN stays
}

// What the gradient of one point is made of. A term that nothing asks for is exactly 0, whatever the track
// holds; so is one whose number is undefined because a step or a state is zero.
template <class Acc>
struct PointTerms {
  double on[kStepTermCount] = {};

  GEODESIC_FAST_INLINE PointTerms(const StepGeometryBackward& args, int64_t l, int64_t track)
      : args_(args), m_(args.tracks.tracks), n_(args.tracks.steps()), track_(track) {
    if (l >= 1) add_step(l, 1, kOnStepBefore, kOnStateBefore);
    if (l < n_) add_step(l + 1, -1, kOnStep, kOnState);
    if (l >= 1) {  // x^(l) as the end of step l
      const double g = over(state_grad(l), norm(l));
      on[kOnStateBefore] += g, on[kOnState] -= times(g, field(kStateCosine, l));
    }
    if (l < n_) add_start(l + 1);
  }

 private:
  // The gradient of v_k, times a sign; `first` names u_(k-1), `state` names e_(k-1).
  GEODESIC_FAST_INLINE void add_step(int64_t k, double sign, int first, int state) {
    const double s = length(k);
    if (s == 0) return;  // no direction, and nothing that depends on one
    double own = grad(kStepLength, k) + over(relative_grad(k), norm(k - 1));
    const double update = over(update_grad(k), s);
    on[state] += sign * update;
    own -= times(update, field(kUpdateCosine, k));
    if (k > 1) own -= add_turn(over(turning_grad(k - 1), s), k - 1, sign, first);
    if (k < n_) own -= add_turn(over(turning_grad(k), s), k, sign, first + 2);
    on[first + 1] += sign * own;
  }
  GEODESIC_FAST_INLINE double add_turn(double g, int64_t turn, double sign, int other) {
    on[other] += sign * g;
    return times(g, field(kTurningCosine, turn));
  }
  // x^(k-1) as the start of step k
  GEODESIC_FAST_INLINE void add_start(int64_t k) {
    const double a = norm(k - 1), state = over(state_grad(k), a), update = over(update_grad(k), a);
    on[kOnNextState] += state;
    on[kOnNextStep] += update;
    on[kOnState] -= times(over(relative_grad(k), a), field(kRelativeLength, k)) +
                    times(state, field(kStateCosine, k)) + times(update, field(kUpdateCosine, k));
  }

  GEODESIC_FAST_INLINE static double over(double g, double size) {
    return g == 0 || size == 0 ? 0 : g / size;
  }
  GEODESIC_FAST_INLINE static double times(double g, double value) { return g == 0 ? 0 : g * value; }
  GEODESIC_FAST_INLINE int64_t at(int row, int64_t k) const { return (row * n_ + k - 1) * m_ + track_; }
  GEODESIC_FAST_INLINE double grad(int row, int64_t k) const {
    return static_cast<const Acc*>(args_.grad_fields)[at(row, k)];
  }
  GEODESIC_FAST_INLINE double field(int row, int64_t k) const {
    return static_cast<const Acc*>(args_.fields)[at(row, k)];
  }
  GEODESIC_FAST_INLINE double norm(int64_t l) const { return args_.kept[l * m_ + track_]; }
  GEODESIC_FAST_INLINE double length(int64_t k) const { return args_.kept[(n_ + 1 + k) * m_ + track_]; }
  GEODESIC_FAST_INLINE double relative_grad(int64_t k) const {
    return norm(k - 1) == 0 ? 0 : grad(kRelativeLength, k);
  }
  GEODESIC_FAST_INLINE double state_grad(int64_t k) const {
    return norm(k - 1) == 0 || norm(k) == 0 ? 0 : grad(kStateCosine, k);
  }
  GEODESIC_FAST_INLINE double update_grad(int64_t k) const {
    return length(k) == 0 || norm(k - 1) == 0 ? 0 : grad(kUpdateCosine, k);
  }
  GEODESIC_FAST_INLINE double turning_grad(int64_t k) const {
    return length(k) == 0 || length(k + 1) == 0 ? 0 : grad(kTurningCosine, k);
  }

  const StepGeometryBackward& args_;
  int64_t m_, n_, track_;
};

}  // namespace geodesic_fast

// SPDX-License-Identifier: MIT
// lss and track_geometry, backward.
// Memory: reads the tracks once, and the saved sum of directions and lengths; writes the gradient once.
// Work:   about 12 operations per value.
// Numbers: float32 rows (float64 for float64 tracks), float64 scalars.
// Bound:  read + write bandwidth; the gradient goes out past the cache.
#include "geometry_gradient.h"
#include "kernels.h"
#include "parallel.h"
#include "track_blocks.h"
#include "track_rows.h"

namespace geodesic_fast {
namespace GEODESIC_FAST_ISA {
namespace {

constexpr int64_t kStreamBytes = 8 << 20;  // gradients larger than this bypass the cache

// direction <- unit step; returns its products with the sum of directions and with the direction before.
template <class T, class Acc = typename AccOf<T>::type>
void unit_step(const T* current, const T* previous, Acc length, const Acc* direction_sum, const Acc* before,
               Acc* direction, int64_t features, Acc (&products)[2]) {
  const bool scaled = !is_safe_square(length * length);
  if (scaled) scaled_direction(current, previous, direction, features);
  const Direction<Acc> unit(length);  // to the last bit: steps along one line have a sine of exactly 0
  sum_over_features(features, products, [=](int64_t j, int64_t count, Vector<Acc>(&part)[2]) {
    const Vector<Acc> u = scaled ? SameType<Acc>::load(direction + j)
                                 : unit(load_row(current, j, count) - load_row(previous, j, count));
    SameType<Acc>::store(direction + j, u);
    part[0] += u * load_row(direction_sum, j, count);
    part[1] += u * SameType<Acc>::load(before + j);
  });
}

// out <- gradient of the step that ends here - gradient of the step that begins here, which takes its place.
template <class T, bool kStream, class Acc = typename AccOf<T>::type, class StepGradient>
void write_point(T* out, Acc* gradient, int64_t features, const StepGradient& step_gradient) {
  for_vectors<Acc>(features, [&](int64_t j, int, int64_t count) {
    const Vector<Acc> g = step_gradient(j, count);
    const Vector<Acc> difference = SameType<Acc>::load(gradient + j) - g;
    SameType<Acc>::store(gradient + j, g);
    if (count < kLanes<Acc>) {
      store_tail(out + j, difference, count);
    } else if (kStream) {
      Memory<T>::stream(out + j, difference);
    } else {
      Memory<T>::store(out + j, difference);
    }
  });
}

template <class T>
class BackwardPass {
  using Acc = typename AccOf<T>::type;
  static constexpr int64_t kRows = 4;  // three directions in turn, and the gradient of the step before

 public:
  BackwardPass(const GeometryBackward& args, char* scratch, int64_t block)
      : args_(args), width_(padded<Acc>(args.tracks.features)) {
    rows_ = reinterpret_cast<Acc*>(scratch);
    states_ = reinterpret_cast<State*>(scratch + block * row_bytes(args));
    const int64_t values = args.tracks.points * args.tracks.tracks * args.tracks.features;
    stream_ = values * static_cast<int64_t>(sizeof(T)) > kStreamBytes;
  }

  static int64_t bytes_per_track(const GeometryBackward& args) {
    return row_bytes(args) * (kRows + 1) / kRows + static_cast<int64_t>(sizeof(State));
  }
  static int64_t scratch_bytes(const GeometryBackward& args, int64_t block) {
    return block * (row_bytes(args) + static_cast<int64_t>(sizeof(State)));
  }

  void run(int64_t begin, int64_t end) {
    for (int64_t track = begin; track < end; ++track) start(states_[track - begin], track, track - begin);
    for (int64_t layer = 1; layer < args_.tracks.points; ++layer) {
      for (int64_t slot = 0; slot < end - begin; ++slot) take_step(states_[slot], layer);
    }
    for (int64_t slot = 0; slot < end - begin; ++slot) finish(states_[slot]);
    store_fence();
  }

 private:
  // The gradient of a step needs the direction after it, so each step is held until the next one is known.
  struct State {
    GradientWeights weights;
    Acc *before, *held, *next, *gradient;  // rows: directions, and the gradient of the last written step
    int64_t track, offset, gradient_offset;
    int64_t held_layer;     // where the held step ends; 0: none is held
    int64_t written_layer;  // where the step in `gradient` ends; 0: before the first
    bool parted;            // a zero-length step lies between the held step and the next, under "keep"
    Length length;          // of the held step, and its weights
    double on_own, on_before, on_sum;  // over `factor`
    double sign_before;  // `before` is taken as its difference from this much of the held direction
    double factor;       // a power of two: 1 but for very short and very long steps
  };

  static int64_t row_bytes(const GeometryBackward& args) {
    return kRows * padded<Acc>(args.tracks.features) * static_cast<int64_t>(sizeof(Acc));
  }
  const T* point(int64_t layer, const State& state) const {
    return row_of<T>(args_.tracks, layer, state.offset);
  }
  T* target(int64_t layer, const State& state) const {
    return row_of<T>(args_.gradient, layer, state.gradient_offset);
  }
  Acc kept_length(int64_t layer, const State& state) const {
    return static_cast<const Acc*>(args_.lengths)[(layer - 1) * args_.tracks.tracks + state.track];
  }
  Length length_of(int64_t layer, const State& state) const {
    const double length = kept_length(layer, state);
    if (length <= kLargestDouble) return length;
    return scaled_direction(point(layer, state), point(layer - 1, state), state.next, args_.tracks.features);
  }
  const Acc* direction_sum(const State& state) const {
    return static_cast<const Acc*>(args_.direction_sum) + state.track * args_.tracks.features;
  }

  void start(State& state, int64_t track, int64_t slot) {
    const int64_t features = args_.tracks.features, last = args_.tracks.points - 1;
    state = State{};
    state.track = track;
    state.offset = args_.tracks.offset(track);
    state.gradient_offset = args_.gradient.offset(track);
    Acc* rows = rows_ + slot * kRows * width_;
    std::memset(rows, 0, kRows * width_ * sizeof(Acc));
    state.before = rows, state.held = rows + width_, state.next = rows + 2 * width_;
    state.gradient = rows + 3 * width_;
    LengthTotals totals;
    for (int64_t layer = 1; layer <= last; ++layer) totals.add(length_of(layer, state));
    const Acc* sum = direction_sum(state);
    const double resultant = std::sqrt(double(dot_rows(sum, sum, features)));
    const Length chord =
        args_.only_lss ? Length(0) : distance(point(last, state), point(0, state), state.next, features);
    state.weights.set(static_cast<const Acc*>(args_.grad_fields) + track, args_.tracks.tracks, args_.only_lss,
                      totals, resultant, chord, args_.zero_step);
    if (state.weights.chord != 0) {
      for_vectors<Acc>(features, [&](int64_t j, int, int64_t count) {
        SameType<Acc>::store(state.gradient + j, boundary(state, j, count));
      });
    }
    if (state.weights.nothing) write_zeros(state, 0, last);
  }

  // What stands for the gradient of a step before the first point and behind the last one: the chord's.
  Vector<Acc> boundary(const State& state, int64_t j, int64_t count) const {
    const Vector<Acc> first = load_row(point(0, state), j, count);
    const Vector<Acc> last = load_row(point(args_.tracks.points - 1, state), j, count);
    const Vector<Acc> weight = broadcast(Acc(state.weights.chord));
    const Length chord = state.weights.chord_length;
    if (is_safe_square(Acc(chord.value * chord.value)) && chord.unit == 1) {
      return (first - last) * broadcast(Acc(1 / chord.value)) * weight;
    }
    Vector<Acc> result = {};
    for (int64_t lane = 0; lane < count; ++lane) {
      const double from = first[lane], to = last[lane], difference = from - to;
      result[lane] = std::fabs(difference) <= kLargestDouble
                         ? Acc(difference / chord.value / chord.unit)
                         : Acc((from * 0.5 - to * 0.5) / chord.value / chord.unit * 2);
    }
    return result * weight;
  }

  void take_step(State& state, int64_t layer) {
    if (state.weights.nothing) return;
    const Length length = length_of(layer, state);
    if (length.value == 0) {
      state.parted = state.parted || args_.zero_step == ZeroStep::kKeep;
      return;
    }
    Acc products[2];
    unit_step(point(layer, state), point(layer - 1, state), kept_length(layer, state), direction_sum(state),
              state.held, state.next, args_.tracks.features, products);
    const double on_sum = products[0], cosine = products[1], lss = state.weights.lss;
    const bool paired = !args_.only_lss && state.held_layer > 0 && !state.parted;
    const Pair pair = paired ? pair_of(state, cosine) : Pair{};
    if (state.held_layer > 0) {
      state.on_own -= held_weight(state, pair.on_held);
      write_held(state, held_weight(state, pair.weight), pair.sign);
    }
    state.held_layer = layer;
    state.length = length;
    state.factor = factor_of(length);
    state.parted = false;
    state.on_sum = -held_weight(state, lss);
    state.on_before = held_weight(state, pair.weight);
    state.sign_before = pair.sign;
    state.on_own = state.weights.own(length) / state.factor +
                   held_weight(state, lss == 0 ? 0 : lss * on_sum) - held_weight(state, pair.on_next);
    Acc* free = state.before;
    state.before = state.held, state.held = state.next, state.next = free;
  }

  // About 1 / length, where weights over the length would leave the range although the gradient need not.
  static double factor_of(Length length) {
    if (length.unit == 1 && is_safe_square(Acc(length.value) * Acc(length.value))) return 1;
    constexpr int most = sizeof(Acc) == 8 ? 1000 : 126;
    const int exponent = length.unit == kLongUnit ? most : length.unit == 1 ? ilogb(length.value) : -most;
    return ldexp(1.0, exponent > most ? -most : exponent < -most ? most : -exponent);
  }
  static double held_weight(const State& state, double weight) {
    return weight == 0 ? 0 : weight / (state.length.value * state.factor) / state.length.unit;
  }

  // Two neighbouring directions u and w send weight (w - sign u) to the first and weight (u - sign w) to the
  // second, less what lies along either: where they are nearly parallel that difference is all there is.
  struct Pair {
    double weight = 0, sign = 0, on_held = 0, on_next = 0;
  };

  Pair pair_of(const State& state, double cosine) const {
    Pair pair;
    if (!state.weights.needs_apart(cosine)) {
      pair.weight = state.weights.of_pair(cosine, 0);
      pair.on_held = pair.on_next = pair.weight == 0 ? 0 : pair.weight * cosine;
      return pair;
    }
    pair.sign = cosine < 0 ? -1 : 1;
    const Acc *u = state.held, *w = state.next;
    const Vector<Acc> sign = broadcast(Acc(pair.sign));
    Acc sums[3];
    sum_over_features(args_.tracks.features, sums, [=](int64_t j, int64_t count, Vector<Acc>(&part)[3]) {
      const Vector<Acc> before = load_row(u, j, count), after = load_row(w, j, count);
      const Vector<Acc> off = after - sign * before;
      part[0] += off * off, part[1] += off * before, part[2] += off * after;
    });
    pair.weight = state.weights.of_pair(cosine, std::sqrt(double(sums[0])));
    if (pair.weight == 0) return Pair{};
    pair.on_held = pair.weight * sums[1], pair.on_next = -pair.weight * pair.sign * sums[2];
    return pair;
  }

  // Writes the point where the held step begins; `next` holds the direction after it.
  void write_held(State& state, double on_next, double sign_next) {
    close_gap(state, state.held_layer);
    const Vector<Acc> own = broadcast(Acc(state.on_own)), sum = broadcast(Acc(state.on_sum));
    const Vector<Acc> before = broadcast(Acc(state.on_before)), next = broadcast(Acc(on_next));
    const Vector<Acc> sign_before = broadcast(Acc(state.sign_before)), sign = broadcast(Acc(sign_next));
    const Acc *u = state.held, *u_before = state.before, *u_next = state.next, *s = direction_sum(state);
    const auto neighbours = [=](int64_t j) {
      const Vector<Acc> held = SameType<Acc>::load(u + j);
      return own * held + (before * (SameType<Acc>::load(u_before + j) - sign_before * held) +
                           next * (SameType<Acc>::load(u_next + j) - sign * held));
    };
    if (state.factor != 1) {
      const Vector<Acc> factor = broadcast(Acc(state.factor));
      write(state, state.held_layer,
            [&](int64_t j, int64_t count) { return factor * (neighbours(j) + sum * load_row(s, j, count)); });
    } else if (args_.only_lss) {
      write(state, state.held_layer, [&](int64_t j, int64_t count) {
        return own * SameType<Acc>::load(u + j) + sum * load_row(s, j, count);
      });
    } else {
      write(state, state.held_layer,
            [&](int64_t j, int64_t count) { return neighbours(j) + sum * load_row(s, j, count); });
    }
  }

  void finish(State& state) {
    if (state.weights.nothing) return;
    if (state.held_layer > 0) write_held(state, 0, 0);
    const int64_t behind = args_.tracks.points;
    close_gap(state, behind);
    const bool chord = state.weights.chord != 0;
    write(state, behind,
          [&](int64_t j, int64_t count) { return chord ? boundary(state, j, count) : Vector<Acc>{}; });
  }

  // Zero-length steps between the written step and the one that ends at `layer` have no gradient.
  void close_gap(State& state, int64_t layer) {
    if (state.written_layer == layer - 1) return;
    write(state, state.written_layer + 1, [](int64_t, int64_t) { return Vector<Acc>{}; });
    write_zeros(state, state.written_layer, layer - 2);
    state.written_layer = layer - 1;
  }

  template <class StepGradient>
  void write(State& state, int64_t layer, const StepGradient& step_gradient) {
    T* out = target(layer - 1, state);
    constexpr uintptr_t alignment = kLanes<Acc> * sizeof(T);
    if (stream_ && reinterpret_cast<uintptr_t>(out) % alignment == 0) {
      write_point<T, true>(out, state.gradient, args_.tracks.features, step_gradient);
    } else {
      write_point<T, false>(out, state.gradient, args_.tracks.features, step_gradient);
    }
    state.written_layer = layer;
  }

  void write_zeros(const State& state, int64_t first, int64_t last) {
    for (int64_t layer = first; layer <= last; ++layer) {
      std::memset(target(layer, state), 0, args_.tracks.features * sizeof(T));
    }
  }

  const GeometryBackward& args_;
  int64_t width_;
  Acc* rows_;
  State* states_;
  bool stream_;
};

}  // namespace

void track_geometry_backward(const GeometryBackward& args, const Place& place) {
  with_dtype(args.tracks.dtype,
             [&](auto zero) { run_blocks<BackwardPass<decltype(zero)>>(args, args.tracks, place.threads); });
}

}  // namespace GEODESIC_FAST_ISA
}  // namespace geodesic_fast

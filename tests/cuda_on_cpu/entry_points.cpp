// SPDX-License-Identifier: MIT
// Every entry point of kernels.h on random tracks, without Python: what a sanitizer finds in the kernels
// it says itself. Answers are checked by the project's own tests, not here.
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <new>
#include <random>
#include <string>
#include <vector>

#include "cuda_bf16.h"
#include "cuda_fp16.h"
#include "kernels.h"

using namespace geodesic_fast;

namespace {

const Place kGpu{1, 0, nullptr};
std::mt19937 random_bits(1);
int calls = 0, failures = 0;
std::string only;  // names of entry points that contain it

float normal() { return std::normal_distribution<float>()(random_bits); }

// Memory of exactly so many bytes, filled with NaN.
struct Memory {
  static constexpr std::align_val_t kAlignment{64};
  struct Free {
    void operator()(char* memory) const { ::operator delete[](memory, kAlignment); }
  };
  std::unique_ptr<char[], Free> held;
  explicit Memory(size_t bytes) : held(new (kAlignment) char[bytes]) { memset(held.get(), 0xff, bytes); }
  template <class T>
  T* as() const {
    return reinterpret_cast<T*>(held.get());
  }
};
template <class T>
Memory of(size_t count) {
  return Memory(count * sizeof(T));
}

void put(char* at, DType dtype, double value) {
  const float f = static_cast<float>(value);
  if (dtype == DType::kFloat64) memcpy(at, &value, 8);
  if (dtype == DType::kFloat32) memcpy(at, &f, 4);
  if (dtype == DType::kFloat16) {
    const __half h = __float2half_rn(f);
    memcpy(at, &h, 2);
  }
  if (dtype == DType::kBFloat16) {
    const __nv_bfloat16 b = __float2bfloat16_rn(f);
    memcpy(at, &b, 2);
  }
}

enum Content { kPlain, kZeroSteps, kNotFinite, kHuge };

// Tracks (points, m, d): rows `pad` features apart from each other, one tensor or a list of layers.
struct Tracks {
  std::vector<Memory> memory;
  std::vector<char*> table;
  TracksView view;

  Tracks(int64_t points, int64_t m, int64_t d, DType dtype, int pad, bool listed, Content content) {
    const int64_t bytes = bytes_of(dtype), layer = m * (d + pad) * bytes;
    for (int64_t l = 0; l < (listed ? points : 1); ++l) memory.emplace_back(listed ? layer : layer * points);
    for (Memory& each : memory) table.push_back(each.as<char>());
    view.dtype = dtype, view.base = table[0], view.layer_stride = listed ? 0 : layer;
    view.points = points, view.tracks = m, view.features = d;
    view.batch_dims = 1, view.batch_size[0] = m, view.batch_stride[0] = (d + pad) * bytes;
    view.table = listed ? table.data() : nullptr;
    for (int64_t i = 0; i < m; ++i) {
      for (int64_t l = 0; l < points; ++l) {
        for (int64_t j = 0; j < d; ++j) {
          double value = normal();
          if (content == kHuge)
            value *= dtype == DType::kFloat64 ? 1e300 : dtype == DType::kFloat16 ? 2e4 : 1e38;
          if (content == kNotFinite && i % 3 == 1 && j == d / 2) value = l % 2 == 0 ? INFINITY : NAN;
          char* at = row(l) + i * view.batch_stride[0] + j * bytes;
          if (content == kZeroSteps && l > 0 && l % 2 == 0)
            memcpy(at, row(l - 1) + i * view.batch_stride[0] + j * bytes, bytes);
          else
            put(at, dtype, value);
        }
      }
    }
  }
  char* row(int64_t l) const {
    return view.table != nullptr ? view.table[l] : view.base + l * view.layer_stride;
  }
};

struct Case {
  int64_t points, m, d;
  DType dtype;
  int pad;
  bool listed;
  Content content;
  ZeroStep zero_step;
};

template <class Run>
void call(const char* name, const Case& c, const Run& run) {
  if (std::string(name).find(only) == std::string::npos) return;
  ++calls;
  try {
    run();
  } catch (const std::exception& error) {
    ++failures;
    printf("FAILED %s points %ld m %ld d %ld dtype %d pad %d listed %d content %d: %s\n", name,
           long(c.points), long(c.m), long(c.d), int(c.dtype), c.pad, c.listed, c.content, error.what());
  }
}

size_t acc_bytes(const Case& c) { return c.dtype == DType::kFloat64 ? 8 : 4; }
// Values of the accumulation type.
Memory values(const Case& c, size_t count) {
  Memory memory(count * 8);
  for (size_t i = 0; i < count; ++i)
    put(memory.as<char>() + i * acc_bytes(c), c.dtype == DType::kFloat64 ? c.dtype : DType::kFloat32,
        normal());
  return memory;
}

void per_track(const Case& c) {
  Tracks x(c.points, c.m, c.d, c.dtype, c.pad, c.listed, c.content),
      out(c.points, c.m, c.d, c.dtype, c.pad, c.listed, kPlain);
  const int64_t n = c.points - 1;
  for (bool only_lss : {true, false}) {
    Memory fields(9 * c.m * 8), sum(c.m * c.d * 8), lengths(n * c.m * 8), work((5 * n + 2) * c.m * 8);
    Memory zeros = of<int64_t>(c.m), grads = values(c, 9 * c.m);
    GeometryForward f;
    f.tracks = x.view, f.zero_step = c.zero_step, f.only_lss = only_lss, f.fields = fields.as<void>();
    f.zero_steps = zeros.as<int64_t>(), f.direction_sum = sum.as<void>(), f.lengths = lengths.as<void>();
    call("track_geometry_forward", c, [&] { cuda::track_geometry_forward(f, kGpu); });
    GeometryBackward b;
    b.tracks = x.view, b.gradient = out.view, b.zero_step = c.zero_step, b.only_lss = only_lss;
    b.grad_fields = grads.as<void>(), b.direction_sum = sum.as<void>(), b.lengths = lengths.as<void>();
    b.workspace = work.as<void>();
    call("track_geometry_backward", c, [&] { cuda::track_geometry_backward(b, kGpu); });
  }
  Memory deviation(c.points * c.m * 8), along(2 * c.points * c.m * 8), grads = values(c, c.points * c.m);
  ChordDeviation chord{x.view, deviation.as<void>(), along.as<void>()};
  call("chord_deviation_forward", c, [&] { cuda::chord_deviation_forward(chord, kGpu); });
  ChordDeviationBackward chord_back{grads.as<void>(), x.view, deviation.as<void>(), along.as<void>(),
                                    out.view};
  call("chord_deviation_backward", c, [&] { cuda::chord_deviation_backward(chord_back, kGpu); });
  Memory steps(kStepFieldCount * n * c.m * 8), kept(kStepKeptCount * c.points * c.m * 8);
  Memory step_grads = values(c, kStepFieldCount * n * c.m);
  StepGeometry geometry{x.view, steps.as<void>(), kept.as<double>()};
  call("step_geometry_forward", c, [&] { cuda::step_geometry_forward(geometry, kGpu); });
  StepGeometryBackward geometry_back{step_grads.as<void>(), x.view, steps.as<void>(), kept.as<double>(),
                                     out.view};
  Memory terms(workspace_bytes(geometry_back, 0));
  geometry_back.workspace = terms.as<double>();
  call("step_geometry_backward", c, [&] { cuda::step_geometry_backward(geometry_back, kGpu); });
  Memory sum(c.m * c.d * 8), direction(c.m * c.d * 8), held(kSumRows * c.m * 8), fields(9 * c.m * 8),
      zeros = of<int64_t>(c.m);
  memset(held.as<char>(), 0, kSumRows * c.m * 8);
  char* two[2];
  Accumulator a;
  a.tracks = x.view, a.zero_step = c.zero_step, a.direction_sum = sum.as<void>(),
  a.direction = direction.as<void>();
  a.sums = held.as<double>(), a.fields = fields.as<void>(), a.zero_steps = zeros.as<int64_t>();
  a.tracks.points = 2, a.tracks.table = two;
  for (int64_t l = 1; l < c.points; ++l) {
    two[0] = x.row(l - 1), two[1] = x.row(l);
    call("track_accumulator_update", c, [&] { cuda::track_accumulator_update(a, kGpu); });
  }
  two[0] = x.row(0), two[1] = x.row(n);
  call("track_accumulator_finish", c, [&] { cuda::track_accumulator_finish(a, kGpu); });
}

void line_deviation(const Case& c) {
  Tracks x(c.points, c.m, c.d, c.dtype, c.pad, c.listed, c.content),
      out(c.points, c.m, c.d, c.dtype, c.pad, c.listed, kPlain);
  const int64_t n = c.points - 1;
  for (bool each : {true, false}) {
    Memory sums(n * n * 8), counts(n * n * 8), matrix(c.m * n * n * 8),
        work(cuda::line_deviation_workspace(x.view, each, 0));
    LineDeviation f{x.view,
                    c.zero_step,
                    each ? nullptr : sums.as<double>(),
                    counts.as<int64_t>(),
                    each ? matrix.as<void>() : nullptr,
                    work.as<void>()};
    call("line_deviation_forward", c, [&] { cuda::line_deviation_forward(f, kGpu); });
    Memory weights = values(c, (each ? c.m : 1) * n * n), kept(2 * c.m * n * 8);
    LineDeviationBackward b{weights.as<void>(), x.view, each, out.view, kept.as<void>()};
    call("line_deviation_backward", c, [&] { cuda::line_deviation_backward(b, kGpu); });
  }
}

void pairs_of_tracks(const Case& c, bool symmetric) {
  const int64_t others = symmetric ? c.m : c.m + 3;
  Tracks x(c.points, c.m, c.d, c.dtype, c.pad, c.listed, c.content),
      y(c.points, others, c.d, c.dtype, c.pad, c.listed, c.content);
  Memory scale(16), centre(c.points * c.d * 8), squares(c.points * c.m * 8),
      other_squares(c.points * others * 8);
  Memory kinds(c.m), other_kinds(others), distance(c.m * others * 8), layer = of<int32_t>(c.m * others);
  TrackPairs pairs{x.view,
                   symmetric ? x.view : y.view,
                   symmetric,
                   scale.as<double>(),
                   centre.as<void>(),
                   squares.as<void>(),
                   symmetric ? squares.as<void>() : other_squares.as<void>(),
                   kinds.as<uint8_t>(),
                   symmetric ? kinds.as<uint8_t>() : other_kinds.as<uint8_t>()};
  call("track_pairs_prepare", c, [&] { cuda::track_pairs_prepare(pairs, kGpu); });
  TrackDistance f{pairs, 0, c.m, distance.as<void>(), layer.as<int32_t>()};
  call("track_distance_forward", c, [&] { cuda::track_distance_forward(f, kGpu); });
  for (int64_t i = 0; i < c.m * others; ++i)
    layer.as<int32_t>()[i] = static_cast<int32_t>(random_bits() % c.points);
  Memory grad = values(c, c.m * others);
  for (bool of_other : {false, true}) {
    Tracks out(c.points, of_other ? others : c.m, c.d, c.dtype, c.pad, c.listed, kPlain);
    TrackDistanceBackward b{grad.as<void>(), distance.as<void>(),         layer.as<int32_t>(),
                            x.view,          symmetric ? x.view : y.view, of_other,
                            out.view};
    call("track_distance_backward", c, [&] { cuda::track_distance_backward(b, kGpu); });
  }
  if (!symmetric) return;
  Memory best = of<double>(c.m), index = of<int64_t>(c.m), at = of<int32_t>(c.m), work(c.m * c.m * 8),
         labels = of<int64_t>(c.m);
  for (int64_t i = 0; i < c.m; ++i) labels.as<int64_t>()[i] = i % 3;
  for (bool labelled : {false, true}) {
    NearestTrack nearest{pairs,
                         0,
                         c.m,
                         0,
                         c.m,
                         labelled ? labels.as<int64_t>() : nullptr,
                         best.as<double>(),
                         index.as<int64_t>(),
                         at.as<int32_t>(),
                         work.as<void>()};
    call("nearest_track", c, [&] { cuda::nearest_track(nearest, kGpu); });
  }
}

void transport(int64_t rows, int64_t cols) {
  const Case c{0, rows, cols, DType::kFloat32, 0, false, kPlain, ZeroStep::kSkip};
  Memory product = values(c, rows * cols), b = values(c, cols), a = of<float>(rows), sum = of<int64_t>(cols),
         best = of<float>(cols);
  for (int64_t j = 0; j < cols; ++j) sum.as<int64_t>()[j] = 0, best.as<float>()[j] = -3e38f;
  const ProductTile tile{product.as<float>(), rows, cols, cols};
  Memory supply = values(c, rows);
  const SoftminArgs softmin{tile,          b.as<float>(),     supply.as<float>(), 0.3f,
                            a.as<float>(), sum.as<int64_t>(), best.as<float>()};
  call("ots_softmin", c, [&] { cuda::ots_softmin(softmin, kGpu); });
  call("ots_column_best", c, [&] { cuda::ots_column_best({tile, a.as<float>(), best.as<float>()}, kGpu); });
  Memory q = values(c, cols), p = values(c, rows), low = values(c, rows), top = of<float>(rows),
         start = of<int64_t>(rows), count = of<int64_t>(rows);
  Memory columns = of<int32_t>(rows * cols);
  for (int mode = 0; mode < 5; ++mode) {
    int64_t used = 0;
    ListArgs args{tile,
                  b.as<float>(),
                  q.as<float>(),
                  p.as<float>(),
                  low.as<float>(),
                  mode == 1 ? 0.5f : 0.0f,
                  mode == 2 ? 5 : 0,
                  mode == 3 ? 7 : 0,
                  top.as<float>(),
                  start.as<int64_t>(),
                  count.as<int64_t>(),
                  columns.as<int32_t>(),
                  mode == 4 ? cols / 2 : rows * cols,
                  &used};
    if (mode == 4)
      for (int64_t i = 0; i < rows; ++i) low.as<float>()[i] = -1e30f;
    call("ots_list", c, [&] { cuda::ots_list(args, kGpu); });
  }
}

}  // namespace

int main(int count, char** words) {
  if (count > 1) only = words[1];  // and from which size on
  int skipped = count > 2 ? atoi(words[2]) : 0;
  const struct {
    int64_t points, m, d;
  } sizes[] = {{2, 1, 1},    {3, 5, 7},   {6, 9, 100},  {9, 3, 160},  {5, 6, 600},
               {18, 2, 136}, {35, 3, 40}, {70, 2, 136}, {90, 2, 128}, {4, 2, 8200}};
  const ZeroStep policies[] = {ZeroStep::kSkip, ZeroStep::kKeep, ZeroStep::kPropagate};
  int turn = 0;
  for (const auto& size : sizes) {
    if (skipped-- > 0) continue;
    for (DType dtype : {DType::kFloat16, DType::kBFloat16, DType::kFloat32, DType::kFloat64}) {
      for (Content content : {kPlain, kZeroSteps, kNotFinite, kHuge}) {
        ++turn;
        const Case c{size.points,
                     size.m,
                     size.d,
                     dtype,
                     turn % 3 == 0 ? 1 : turn % 3 == 1 ? 8 : 0,
                     turn % 2 == 0,
                     content,
                     policies[turn % 3]};
        per_track(c);
        if (size.d < 5000) line_deviation(c);
        if (size.d < 5000) pairs_of_tracks(c, true), pairs_of_tracks(c, false);
      }
    }
    printf("points %ld m %ld d %ld: %d calls so far\n", long(size.points), long(size.m), long(size.d), calls);
    fflush(stdout);
  }
  for (int64_t rows : {1, 7, 130}) {
    for (int64_t cols : {1, 65, 300, 2600}) transport(rows, cols);
  }
  printf("%d calls, %d failed\n", calls, failures);
  return failures > 0;
}

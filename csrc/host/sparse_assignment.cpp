// SPDX-License-Identifier: MIT
#include "sparse_assignment.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <limits>
#include <vector>

namespace geodesic_fast {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();
using Clock = std::chrono::steady_clock;
// Of the costs' size: prices that follow thousands of paths drift so far apart.
constexpr double kKept = 0x1p-49;

// Columns ordered by distance; a column's place is kept so that its distance can be lowered.
class ColumnHeap {
 public:
  explicit ColumnHeap(int64_t cols) : place_(cols, -1), distance_(cols, kInfinity) {}

  bool empty() const { return heap_.empty(); }
  double distance(int32_t j) const { return distance_[j]; }

  // Returns whether `d` is shorter than what was known for column j.
  bool lower(int32_t j, double d) {
    if (!(d < distance_[j])) return false;
    if (distance_[j] == kInfinity) {
      touched_.push_back(j);
      place_[j] = static_cast<int32_t>(heap_.size());
      heap_.push_back(j);
    }
    distance_[j] = d;
    rise(place_[j]);
    return true;
  }

  int32_t pop() {
    const int32_t top = heap_[0], last = heap_.back();
    heap_.pop_back();
    if (!heap_.empty()) {
      heap_[0] = last;
      place_[last] = 0;
      sink(0);
    }
    return top;
  }

  void clear() {
    for (int32_t j : touched_) distance_[j] = kInfinity;
    touched_.clear();
    heap_.clear();
  }

 private:
  void rise(int32_t at) {
    const int32_t j = heap_[at];
    while (at > 0) {
      const int32_t up = (at - 1) / 4;
      if (!(distance_[j] < distance_[heap_[up]])) break;
      heap_[at] = heap_[up];
      place_[heap_[at]] = at;
      at = up;
    }
    heap_[at] = j;
    place_[j] = at;
  }

  void sink(int32_t at) {
    const int32_t j = heap_[at], size = static_cast<int32_t>(heap_.size());
    for (;;) {
      const int32_t first = 4 * at + 1, end = std::min(first + 4, size);
      if (first >= size) break;
      int32_t least = first;
      for (int32_t k = first + 1; k < end; ++k) {
        if (distance_[heap_[k]] < distance_[heap_[least]]) least = k;
      }
      if (!(distance_[heap_[least]] < distance_[j])) break;
      heap_[at] = heap_[least];
      place_[heap_[at]] = at;
      at = least;
    }
    heap_[at] = j;
    place_[j] = at;
  }

  std::vector<int32_t> place_, heap_, touched_;
  std::vector<double> distance_;
};

// Which rows hold units of each column, in lists that give and take in constant time.
class Holds {
 public:
  struct Hold {
    int64_t edge;
    int32_t row, col, next, before;
  };

  explicit Holds(int64_t cols) : first_(cols, kNone) { holds_.reserve(cols); }

  static constexpr int32_t kNone = -1;
  int32_t first(int32_t col) const { return first_[col]; }
  const Hold& operator[](int32_t at) const { return holds_[at]; }

  void add(int32_t row, int32_t col, int64_t edge) {
    int32_t at = spare_;
    if (at == kNone) {
      at = static_cast<int32_t>(holds_.size());
      holds_.push_back({});
    } else {
      spare_ = holds_[at].next;
    }
    holds_[at] = {edge, row, col, first_[col], kNone};
    if (first_[col] != kNone) holds_[first_[col]].before = at;
    first_[col] = at;
  }

  void remove(int32_t at) {
    const Hold hold = holds_[at];
    if (hold.next != kNone) holds_[hold.next].before = hold.before;
    (hold.before == kNone ? first_[hold.col] : holds_[hold.before].next) = hold.next;
    holds_[at].next = spare_;
    spare_ = at;
  }

 private:
  std::vector<int32_t> first_;
  std::vector<Hold> holds_;
  int32_t spare_ = kNone;
};

}  // namespace

class AssignmentSolver::State {
 public:
  explicit State(const SparseAssignment& problem)
      : p_(problem),
        g_(problem.graph),
        left_(g_.supply, g_.supply + g_.rows),
        room_(g_.demand, g_.demand + g_.cols),
        holds_(g_.cols),
        heap_(g_.cols),
        from_(g_.cols),
        reached_(g_.rows),
        seen_(g_.rows, 0) {
    lower_for_heavy_rows();
    unmatched_ = keep_tight_flow();
    reduce_rows(unmatched_);
  }

  SparseStatus run(double seconds) {
    const auto deadline =
        Clock::now() + std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(seconds));
    SparseStatus status = SparseStatus::kSolved;
    while (!unmatched_.empty() && status == SparseStatus::kSolved) {
      const int32_t row = unmatched_.back();
      if (left_[row] == 0) {
        unmatched_.pop_back();
      } else {
        status = Clock::now() > deadline ? SparseStatus::kOutOfTime : augment(row);
      }
    }
    if (status == SparseStatus::kSolved) {
      for (int64_t i = 0; i < g_.rows; ++i) p_.u[i] = least_of(i).value;
    }
    return status;
  }

  const SparseAssignment& problem() const { return p_; }

 private:
  struct Least {
    double value, second;
    int64_t edge, second_edge;
  };

  Least least_of(int64_t i) const {
    Least least{kInfinity, kInfinity, -1, -1};
    for (int64_t e = g_.row_start[i]; e < g_.row_start[i + 1]; ++e) {
      const double value = p_.cost[e] - p_.v[g_.col[e]];
      if (value < least.value) {
        least = {value, least.value, e, least.edge};
      } else if (value < least.second) {
        least.second = value;
        least.second_edge = e;
      }
    }
    return least;
  }

  void give(int32_t row, int64_t edge, int32_t units) {
    if (p_.flow[edge] == 0) holds_.add(row, g_.col[edge], edge);
    p_.flow[edge] += units;
  }

  void take_back(int32_t at, int32_t units) {
    const int64_t edge = holds_[at].edge;
    p_.flow[edge] -= units;
    if (p_.flow[edge] == 0) holds_.remove(at);
  }

  // A new edge that undercuts a row of many units would make them all loose: its column's price falls
  // instead, which loosens only the few units that the column takes.
  void lower_for_heavy_rows() {
    for (int64_t i = 0; i < g_.rows; ++i) {
      if (g_.supply[i] == 1) continue;
      double held = -kInfinity;
      for (int64_t e = g_.row_start[i]; e < g_.row_start[i + 1]; ++e) {
        if (p_.flow[e] > 0) held = std::max(held, p_.cost[e] - p_.v[g_.col[e]]);
      }
      if (held == -kInfinity) continue;
      for (int64_t e = g_.row_start[i]; e < g_.row_start[i + 1]; ++e) {
        const int32_t j = g_.col[e];
        if (g_.demand[j] < g_.supply[i]) p_.v[j] = std::min(p_.v[j], p_.cost[e] - held);
      }
    }
  }

  // Flow that new edges or new duals made loose is dropped; the rest is still part of an optimum.
  std::vector<int32_t> keep_tight_flow() {
    std::vector<int32_t> unmatched;
    for (int32_t i = 0; i < g_.rows; ++i) {
      const double least = least_of(i).value;
      for (int64_t e = g_.row_start[i]; e < g_.row_start[i + 1]; ++e) {
        if (p_.flow[e] == 0) continue;
        const double c = p_.cost[e], v = p_.v[g_.col[e]];
        const bool tight = c - v <= least + kKept * (std::fabs(c) + std::fabs(v));
        const int32_t units = tight ? std::min({p_.flow[e], left_[i], room_[g_.col[e]]}) : 0;
        p_.flow[e] = 0;
        if (units == 0) continue;
        give(i, e, units);
        left_[i] -= units;
        room_[g_.col[e]] -= units;
      }
      if (left_[i] > 0) unmatched.push_back(i);
    }
    return unmatched;
  }

  // Augmenting row reduction: a free row takes its cheapest column and lowers that column's price until its
  // second choice costs the same; whom it displaces goes next. A column of several units is only filled up:
  // its price belongs to all who hold it.
  void reduce_rows(std::vector<int32_t>& unmatched) {
    for (int round = 0; round < 2 && !unmatched.empty(); ++round) {
      std::vector<int32_t> later;
      int64_t steps = 16 * static_cast<int64_t>(unmatched.size()) + 1024;
      while (!unmatched.empty()) {
        const int32_t row = unmatched.back();
        unmatched.pop_back();
        const Least least = least_of(row);
        if (least.second == kInfinity || --steps < 0 || !reduce_row(row, least, unmatched)) {
          later.push_back(row);
        }
      }
      unmatched.swap(later);
    }
  }

  bool reduce_row(int32_t row, const Least& least, std::vector<int32_t>& unmatched) {
    ++p_.reductions;
    int64_t edge = least.edge;
    const bool alone = g_.demand[g_.col[edge]] == 1;
    const double lowered = p_.v[g_.col[edge]] - (least.second - least.value);
    const bool lowers = alone && lowered < p_.v[g_.col[edge]];
    if (!lowers && room_[g_.col[edge]] == 0 && least.second == least.value) edge = least.second_edge;
    const int32_t col = g_.col[edge];
    if (!lowers && room_[col] == 0) return false;
    if (lowers) p_.v[col] = lowered;
    if (room_[col] == 0) {
      const int32_t at = holds_.first(col), displaced = holds_[at].row;
      take_back(at, 1);
      if (left_[displaced]++ == 0 && displaced != row) unmatched.push_back(displaced);
      room_[col] = 1;
    }
    const int32_t units = std::min(left_[row], room_[col]);
    give(row, edge, units);
    left_[row] -= units;
    room_[col] -= units;
    if (left_[row] > 0) unmatched.push_back(row);
    return true;
  }

  // One shortest augmenting path from a row with units left, by Dijkstra's method over reduced costs.
  SparseStatus augment(int32_t row) {
    ++p_.augmentations;
    heap_.clear();
    settled_.clear();
    ++turn_;
    relax(row, 0.0, least_of(row).value);
    while (!heap_.empty()) {
      const int32_t j = heap_.pop();
      if (room_[j] > 0) {
        const double end = heap_.distance(j);
        for (int32_t k : settled_) p_.v[k] += heap_.distance(k) - end;
        push(row, j);
        return SparseStatus::kSolved;
      }
      settled_.push_back(j);
      for (int32_t at = holds_.first(j); at != Holds::kNone; at = holds_[at].next) {
        const int32_t holder = holds_[at].row;
        if (seen_[holder] == turn_) continue;
        reached_[holder] = at;
        relax(holder, heap_.distance(j), p_.cost[holds_[at].edge] - p_.v[j]);
      }
    }
    return SparseStatus::kNoFlow;
  }

  void relax(int32_t row, double distance, double u) {
    seen_[row] = turn_;
    p_.scanned += g_.row_start[row + 1] - g_.row_start[row];
    for (int64_t e = g_.row_start[row]; e < g_.row_start[row + 1]; ++e) {
      const int32_t j = g_.col[e];
      const double reduced = std::max(0.0, (p_.cost[e] - p_.v[j]) - u);
      if (heap_.lower(j, distance + reduced)) from_[j] = {row, e};
    }
  }

  // Moves as many units as the path from `row` to column j lets through.
  void push(int32_t row, int32_t j) {
    int32_t units = std::min(left_[row], room_[j]);
    for (int32_t at = from_[j].row; at != row; at = from_[holds_[reached_[at]].col].row) {
      units = std::min(units, p_.flow[holds_[reached_[at]].edge]);
    }
    left_[row] -= units;
    room_[j] -= units;
    for (;;) {
      const Arrival arrival = from_[j];
      give(arrival.row, arrival.edge, units);
      if (arrival.row == row) return;
      j = holds_[reached_[arrival.row]].col;
      take_back(reached_[arrival.row], units);
    }
  }

  struct Arrival {
    int32_t row;
    int64_t edge;
  };

  SparseAssignment p_;
  const SparseGraph g_;
  std::vector<int32_t> left_, room_;  // units that a row still has, that a column still takes
  Holds holds_;
  ColumnHeap heap_;
  std::vector<Arrival> from_;     // how a column was reached
  std::vector<int32_t> reached_;  // the hold through which a row was reached
  std::vector<int64_t> seen_;     // the last search that reached a row
  std::vector<int32_t> settled_;
  std::vector<int32_t> unmatched_;
  int64_t turn_ = 0;
};

AssignmentSolver::AssignmentSolver(const SparseAssignment& problem)
    : state_(std::make_unique<State>(problem)) {}
AssignmentSolver::~AssignmentSolver() = default;
SparseStatus AssignmentSolver::run(double seconds) { return state_->run(seconds); }
const SparseAssignment& AssignmentSolver::problem() const { return state_->problem(); }

}  // namespace geodesic_fast

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

// Columns ordered by distance; a column's place is kept so that its distance can be lowered.
class ColumnHeap {
 public:
  explicit ColumnHeap(int64_t m) : place_(m, -1), distance_(m, kInfinity) {}

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

class Solver {
 public:
  explicit Solver(SparseAssignment& problem)
      : p_(problem), owner_(problem.m, -1), heap_(problem.m), from_(problem.m), matched_cost_(problem.m) {}

  SparseStatus solve() {
    deadline_ =
        Clock::now() + std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(p_.seconds));
    p_.reductions = p_.augmentations = p_.scanned = 0;
    std::vector<int32_t> unmatched = keep_tight_matches();
    SparseStatus status = SparseStatus::kSolved;
    reduce_rows(unmatched);
    for (int32_t row : unmatched) {
      if (p_.match[row] >= 0) continue;
      status = out_of_time() ? SparseStatus::kOutOfTime : augment(row);
      if (status != SparseStatus::kSolved) break;
    }
    for (int64_t i = 0; i < p_.m; ++i) p_.u[i] = least_of(i).value;
    return status;
  }

 private:
  struct Least {
    double value, second;
    int64_t edge, second_edge;
  };

  Least least_of(int64_t i) const {
    Least least{kInfinity, kInfinity, -1, -1};
    for (int64_t e = p_.row_start[i]; e < p_.row_start[i + 1]; ++e) {
      const double value = p_.cost[e] - p_.v[p_.col[e]];
      if (value < least.value) {
        least = {value, least.value, e, least.edge};
      } else if (value < least.second) {
        least.second = value;
        least.second_edge = e;
      }
    }
    return least;
  }

  bool out_of_time() const { return Clock::now() > deadline_; }

  void assign(int32_t row, int64_t edge) {
    p_.match[row] = p_.col[edge];
    owner_[p_.col[edge]] = row;
    matched_cost_[row] = p_.cost[edge];
  }

  // A match that new edges or new duals made loose is dropped; the others are still part of an optimum.
  std::vector<int32_t> keep_tight_matches() {
    std::vector<int32_t> unmatched;
    for (int64_t i = 0; i < p_.m; ++i) {
      const Least least = least_of(i);
      const int32_t wanted = p_.match[i];
      p_.match[i] = -1;
      if (wanted >= 0 && owner_[wanted] < 0) {
        for (int64_t e = p_.row_start[i]; e < p_.row_start[i + 1]; ++e) {
          const double c = p_.cost[e], v = p_.v[p_.col[e]];
          if (p_.col[e] == wanted && c - v <= least.value + 0x1p-51 * (std::fabs(c) + std::fabs(v))) {
            assign(static_cast<int32_t>(i), e);
            break;
          }
        }
      }
      if (p_.match[i] < 0) unmatched.push_back(static_cast<int32_t>(i));
    }
    return unmatched;
  }

  // Augmenting row reduction: a free row takes its cheapest column and lowers that column's price until its
  // second choice costs the same; whom it displaces goes next.
  void reduce_rows(std::vector<int32_t>& unmatched) {
    for (int round = 0; round < 2 && !unmatched.empty(); ++round) {
      std::vector<int32_t> left;
      int64_t steps = 16 * static_cast<int64_t>(unmatched.size()) + 1024;
      while (!unmatched.empty()) {
        const int32_t row = unmatched.back();
        unmatched.pop_back();
        const Least least = least_of(row);
        if (least.second == kInfinity || --steps < 0) {
          left.push_back(row);
          continue;
        }
        ++p_.reductions;
        int64_t edge = least.edge;
        const double lowered = p_.v[p_.col[edge]] - (least.second - least.value);
        const bool lowers = lowered < p_.v[p_.col[edge]];
        if (!lowers && owner_[p_.col[edge]] >= 0) edge = least.second_edge;
        const int32_t displaced = owner_[p_.col[edge]];
        if (!lowers && displaced >= 0) {
          left.push_back(row);
          continue;
        }
        if (lowers) p_.v[p_.col[edge]] = lowered;
        if (displaced >= 0) p_.match[displaced] = -1;
        assign(row, edge);
        if (displaced >= 0) unmatched.push_back(displaced);
      }
      unmatched.swap(left);
    }
  }

  // One shortest augmenting path from a free row by Dijkstra's method over reduced costs.
  SparseStatus augment(int32_t row) {
    ++p_.augmentations;
    heap_.clear();
    settled_.clear();
    relax(row, 0.0, least_of(row).value);
    while (!heap_.empty()) {
      const int32_t j = heap_.pop();
      if (owner_[j] < 0) {
        const double end = heap_.distance(j);
        for (int32_t k : settled_) p_.v[k] += heap_.distance(k) - end;
        flip(row, j);
        return SparseStatus::kSolved;
      }
      settled_.push_back(j);
      relax(owner_[j], heap_.distance(j), matched_cost_[owner_[j]] - p_.v[j]);
    }
    return SparseStatus::kNoPerfectMatching;
  }

  void relax(int32_t row, double distance, double u) {
    p_.scanned += p_.row_start[row + 1] - p_.row_start[row];
    for (int64_t e = p_.row_start[row]; e < p_.row_start[row + 1]; ++e) {
      const int32_t j = p_.col[e];
      const double reduced = std::max(0.0, (p_.cost[e] - p_.v[j]) - u);
      if (heap_.lower(j, distance + reduced)) from_[j] = {row, e};
    }
  }

  void flip(int32_t row, int32_t j) {
    for (;;) {
      const Arrival arrival = from_[j];
      const int32_t next = p_.match[arrival.row];
      assign(arrival.row, arrival.edge);
      if (arrival.row == row) return;
      j = next;
    }
  }

  struct Arrival {
    int32_t row;
    int64_t edge;
  };

  SparseAssignment& p_;
  std::vector<int32_t> owner_;  // row that holds column j, -1 for none
  ColumnHeap heap_;
  std::vector<Arrival> from_;
  std::vector<double> matched_cost_;
  std::vector<int32_t> settled_;
  Clock::time_point deadline_;
};

}  // namespace

SparseStatus solve_sparse_assignment(SparseAssignment& problem) { return Solver(problem).solve(); }

}  // namespace geodesic_fast

// SPDX-License-Identifier: MIT
// Of all flows on a graph, one with the most units on edges where they stay: a unit costs 0 there and 1
// elsewhere. All costs are whole numbers, so paths of equal cost are many and are filled together: blocking
// flows between prices (the primal-dual method with Dinic's layers).
#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <limits>
#include <vector>

#include "sparse_assignment.h"

namespace geodesic_fast {
namespace {

using Clock = std::chrono::steady_clock;
constexpr int32_t kFar = std::numeric_limits<int32_t>::max();

class FixedFlow {
 public:
  explicit FixedFlow(MostFixed& problem)
      : p_(problem),
        g_(problem.graph),
        left_(g_.supply, g_.supply + g_.rows),
        room_(g_.demand, g_.demand + g_.cols),
        row_of_(g_.row_start[g_.rows]) {
    bool begun = false;
    for (int64_t i = 0; i < g_.rows; ++i) {
      for (int64_t e = g_.row_start[i]; e < g_.row_start[i + 1]; ++e) {
        row_of_[e] = static_cast<int32_t>(i);
        begun |= p_.flow[e] > 0;
      }
    }
    for (int64_t e = 0; e < g_.row_start[g_.rows]; ++e) {
      if (!begun) p_.flow[e] = p_.stay[e];
      left_[row_of_[e]] -= p_.flow[e];
      room_[g_.col[e]] -= p_.flow[e];
    }
  }

  SparseStatus solve() {
    const auto deadline =
        Clock::now() + std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(p_.seconds));
    while (std::any_of(left_.begin(), left_.end(), [](int32_t units) { return units > 0; })) {
      if (Clock::now() > deadline) return SparseStatus::kOutOfTime;
      ++p_.phases;
      list_holders();
      if (!raise_prices()) return SparseStatus::kNoFlow;
      layer();
      fill();
    }
    return SparseStatus::kSolved;
  }

 private:
  // What one more unit on edge e costs, and one fewer.
  int32_t cost_of_more(int64_t e) const { return p_.flow[e] < p_.stay[e] ? 0 : 1; }
  int32_t cost_of_fewer(int64_t e) const { return p_.flow[e] > p_.stay[e] ? -1 : 0; }

  int32_t forward(int64_t e) const {  // reduced cost, at least 0
    return cost_of_more(e) + p_.row_price[row_of_[e]] - p_.col_price[g_.col[e]];
  }
  int32_t backward(int64_t e) const {
    return cost_of_fewer(e) + p_.col_price[g_.col[e]] - p_.row_price[row_of_[e]];
  }

  // The edges with flow, by column.
  void list_holders() {
    const int64_t edges = g_.row_start[g_.rows];
    held_start_.assign(g_.cols + 1, 0);
    for (int64_t e = 0; e < edges; ++e) held_start_[g_.col[e] + 1] += p_.flow[e] > 0;
    for (int64_t j = 0; j < g_.cols; ++j) held_start_[j + 1] += held_start_[j];
    held_.resize(held_start_[g_.cols]);
    std::vector<int64_t> place(held_start_.begin(), held_start_.end() - 1);
    for (int64_t e = 0; e < edges; ++e) {
      if (p_.flow[e] > 0) held_[place[g_.col[e]]++] = e;
    }
  }

  // Shortest reduced distances from the rows with units left, by whole numbers (Dial's buckets), as far as
  // the nearest column with room; prices follow them. Returns whether there is such a column.
  bool raise_prices() {
    std::vector<int32_t> row_far(g_.rows, kFar), col_far(g_.cols, kFar);
    std::vector<std::vector<int32_t>> buckets(1);  // row i as i, column j as -1 - j
    const auto reach = [&](std::vector<int32_t>& far, int32_t node, int32_t name, int32_t distance) {
      if (distance >= far[node]) return;
      far[node] = distance;
      if (distance >= static_cast<int32_t>(buckets.size())) buckets.resize(distance + 1);
      buckets[distance].push_back(name);
    };
    for (int32_t i = 0; i < g_.rows; ++i) {
      if (left_[i] > 0) reach(row_far, i, i, 0);
    }
    int32_t end = kFar;
    for (int32_t distance = 0; distance < static_cast<int32_t>(buckets.size()) && end == kFar; ++distance) {
      for (size_t at = 0; at < buckets[distance].size(); ++at) {  // grows while it is read
        const int32_t name = buckets[distance][at];
        if (name >= 0) {
          if (row_far[name] < distance) continue;
          for (int64_t e = g_.row_start[name]; e < g_.row_start[name + 1]; ++e) {
            reach(col_far, g_.col[e], -1 - g_.col[e], distance + forward(e));
          }
          continue;
        }
        const int32_t j = -1 - name;
        if (col_far[j] < distance) continue;
        if (room_[j] > 0) end = distance;
        for (int64_t k = held_start_[j]; k < held_start_[j + 1]; ++k) {
          reach(row_far, row_of_[held_[k]], row_of_[held_[k]], distance + backward(held_[k]));
        }
      }
    }
    if (end == kFar) return false;
    if (end > 0) {
      for (int64_t i = 0; i < g_.rows; ++i) p_.row_price[i] += std::min(row_far[i], end);
      for (int64_t j = 0; j < g_.cols; ++j) p_.col_price[j] += std::min(col_far[j], end);
    }
    return true;
  }

  // Numbers of steps from the rows with units left, over edges without reduced cost.
  void layer() {
    row_layer_.assign(g_.rows, kFar);
    col_layer_.assign(g_.cols, kFar);
    std::vector<int32_t> rows, next;
    for (int32_t i = 0; i < g_.rows; ++i) {
      if (left_[i] <= 0) continue;
      row_layer_[i] = 0;
      rows.push_back(i);
    }
    bool ended = false;
    for (int32_t depth = 0; !rows.empty() && !ended; depth += 2) {
      next.clear();
      for (int32_t i : rows) {
        for (int64_t e = g_.row_start[i]; e < g_.row_start[i + 1]; ++e) {
          const int32_t j = g_.col[e];
          if (col_layer_[j] != kFar || forward(e) != 0) continue;
          col_layer_[j] = depth + 1;
          ended |= room_[j] > 0;
          for (int64_t k = held_start_[j]; k < held_start_[j + 1]; ++k) {
            const int32_t holder = row_of_[held_[k]];
            if (row_layer_[holder] != kFar || backward(held_[k]) != 0) continue;
            row_layer_[holder] = depth + 2;
            next.push_back(holder);
          }
        }
      }
      rows.swap(next);
    }
  }

  // Paths from layer to layer until none is left.
  void fill() {
    next_edge_.assign(g_.row_start, g_.row_start + g_.rows);
    next_held_.assign(held_start_.begin(), held_start_.end() - 1);
    for (int32_t i = 0; i < g_.rows; ++i) {
      while (left_[i] > 0 && find_path(i)) push(i);
    }
  }

  // Leaves in `path_` the edges from row i to a column with room, forward and backward in turn.
  bool find_path(int32_t i) {
    path_.clear();
    for (;;) {
      int64_t& e = next_edge_[i];
      while (e < g_.row_start[i + 1] && (col_layer_[g_.col[e]] != row_layer_[i] + 1 || forward(e) != 0)) ++e;
      if (e == g_.row_start[i + 1]) {
        if (path_.empty()) return false;
        ++next_held_[g_.col[path_.back()]];  // this holder leads nowhere: back to its column
        path_.pop_back();
      } else {
        path_.push_back(e);
      }
      const int32_t j = g_.col[path_.back()];
      if (room_[j] > 0) return true;
      int64_t& k = next_held_[j];
      while (k < held_start_[j + 1] && !leads(held_[k], j)) ++k;
      if (k < held_start_[j + 1]) {
        i = row_of_[held_[k]];
        path_.push_back(held_[k]);
      } else {  // the column leads nowhere: back to the row before it
        i = row_of_[path_.back()];
        ++next_edge_[i];
        path_.pop_back();
      }
    }
  }

  bool leads(int64_t held, int32_t j) const {
    return p_.flow[held] > 0 && row_layer_[row_of_[held]] == col_layer_[j] + 1 && backward(held) == 0;
  }

  void push(int32_t i) {
    int32_t units = std::min(left_[i], room_[g_.col[path_.back()]]);
    for (size_t at = 0; at < path_.size(); ++at)
      units = std::min(units, lets_through(path_[at], at % 2 == 1));
    for (size_t at = 0; at < path_.size(); ++at) p_.flow[path_[at]] += at % 2 == 1 ? -units : units;
    left_[i] -= units;
    room_[g_.col[path_.back()]] -= units;
  }

  // Units of one cost on this edge.
  int32_t lets_through(int64_t e, bool back) const {
    const int32_t above = p_.flow[e] - p_.stay[e];
    if (back) return above > 0 ? above : p_.flow[e];
    return above < 0 ? -above : kFar;
  }

  MostFixed& p_;
  const SparseGraph& g_;
  std::vector<int32_t> left_, room_;  // units that a row still has, that a column still takes
  std::vector<int32_t> row_of_;       // (edges)
  std::vector<int64_t> held_start_, held_;
  std::vector<int32_t> row_layer_, col_layer_;
  std::vector<int64_t> next_edge_, next_held_, path_;
};

}  // namespace

SparseStatus solve_most_fixed(MostFixed& problem) { return FixedFlow(problem).solve(); }

}  // namespace geodesic_fast

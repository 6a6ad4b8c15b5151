// SPDX-License-Identifier: MIT
#include "cycle_blocks.h"

#include <algorithm>
#include <vector>

namespace geodesic_fast {
namespace {

// Biconnected components by depth-first search (Hopcroft and Tarjan), without recursion: nodes are the rows
// and then the columns.
class Blocks {
 public:
  explicit Blocks(const CycleBlocks& problem)
      : p_(problem), start_(p_.rows + p_.cols + 1, 0), arc_(2 * p_.edges), found_(p_.rows + p_.cols, 0) {
    for (int64_t e = 0; e < p_.edges; ++e) {
      ++start_[p_.row[e] + 1];
      ++start_[p_.rows + p_.col[e] + 1];
    }
    for (size_t node = 1; node < start_.size(); ++node) start_[node] += start_[node - 1];
    next_.assign(start_.begin(), start_.end() - 1);
    for (int64_t e = 0; e < p_.edges; ++e) {
      arc_[next_[p_.row[e]]++] = e;
      arc_[next_[p_.rows + p_.col[e]]++] = e;
    }
    next_.assign(start_.begin(), start_.end() - 1);
    low_ = found_;
  }

  int64_t find() {
    for (int64_t root = 0; root < p_.rows + p_.cols; ++root) {
      if (found_[root] == 0 && next_[root] < start_[root + 1]) search(root);
    }
    return blocks_;
  }

 private:
  struct Visit {
    int64_t node, by;  // the edge through which the node was found
  };

  int64_t other_end(int64_t node, int64_t e) const {
    return node < p_.rows ? p_.rows + p_.col[e] : p_.row[e];
  }

  void search(int64_t root) {
    found_[root] = low_[root] = ++turn_;
    visits_.push_back({root, -1});
    while (!visits_.empty()) {
      const auto [node, by] = visits_.back();
      if (next_[node] < start_[node + 1]) {
        follow(node, by, arc_[next_[node]++]);
        continue;
      }
      visits_.pop_back();
      if (visits_.empty()) return;
      const int64_t before = visits_.back().node;
      low_[before] = std::min(low_[before], low_[node]);
      if (low_[node] >= found_[before]) close_block(by);
    }
  }

  void follow(int64_t node, int64_t by, int64_t e) {
    const int64_t to = other_end(node, e);
    if (e == by || found_[to] > found_[node]) return;  // seen from its other end
    open_.push_back(e);
    if (found_[to] > 0) {
      low_[node] = std::min(low_[node], found_[to]);
      return;
    }
    found_[to] = low_[to] = ++turn_;
    visits_.push_back({to, e});
  }

  // All edges since `by` are a block, or `by` alone lies on no cycle.
  void close_block(int64_t by) {
    if (open_.back() == by) {
      p_.block[by] = -1;
      open_.pop_back();
      return;
    }
    for (int64_t e = -1; e != by; open_.pop_back()) p_.block[e = open_.back()] = blocks_;
    ++blocks_;
  }

  const CycleBlocks p_;
  std::vector<int64_t> start_, arc_, next_;  // edges of each node, and how far they were followed
  std::vector<int64_t> found_, low_;  // when a node was found, and the earliest node seen from behind it
  std::vector<int64_t> open_;         // edges whose block is not closed
  std::vector<Visit> visits_;
  int64_t turn_ = 0, blocks_ = 0;
};

}  // namespace

int64_t find_cycle_blocks(const CycleBlocks& problem) { return Blocks(problem).find(); }

}  // namespace geodesic_fast

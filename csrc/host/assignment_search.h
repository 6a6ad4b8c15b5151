// SPDX-License-Identifier: MIT
// Shortest paths of a sparse assignment, from its rows or, the same thing, from its columns.
#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>
#include <vector>

namespace geodesic_fast {

constexpr double kInfinity = std::numeric_limits<double>::infinity();
constexpr int32_t kNone = -1;

// Of a row or a column, while searches run.
struct Node {
  double reached = kInfinity;    // distance from where the search of its own side began
  double tentative = kInfinity;  // the same for the other side's search, perhaps not the shortest yet
  int32_t hold = kNone;          // through which its own side's search reached it
  int32_t place = kNone;         // in the heap of the other side's search
};

// The rows or the columns, each with its edges start[x] .. start[x+1] to `other`.
struct Side {
  const int64_t* start;
  const int32_t* other;
  const int64_t* edge;        // nullptr where edges are numbered in this order
  std::vector<int32_t> left;  // units that are not assigned yet
  std::vector<double> dual;
  std::vector<Node> nodes;
  std::vector<int32_t> first_hold;

  int64_t degree(int32_t x) const { return start[x + 1] - start[x]; }
  int64_t edge_at(int64_t k) const { return edge == nullptr ? k : edge[k]; }
};

// An edge with units. Each is in a list of its row, [0], and in one of its column, [1].
struct Hold {
  int64_t edge;
  int32_t end[2], next[2], before[2];
};

// Which rows hold units of which columns, in lists that give and take in constant time.
class Holds {
 public:
  Holds(Side* sides, int32_t* units) : sides_(sides), units_(units) {}

  const Hold& operator[](int32_t at) const { return holds_[at]; }
  int32_t units(int32_t at) const { return units_[holds_[at].edge]; }

  void give(int64_t edge, int32_t row, int32_t col, int32_t units) {
    if (units_[edge] == 0) add({edge, {row, col}, {kNone, kNone}, {kNone, kNone}});
    units_[edge] += units;
  }

  void take(int32_t at, int32_t units) {
    if ((units_[holds_[at].edge] -= units) == 0) remove(at);
  }

 private:
  void add(Hold hold) {
    int32_t at = spare_;
    if (at == kNone) {
      at = static_cast<int32_t>(holds_.size());
      holds_.push_back({});
    } else {
      spare_ = holds_[at].next[0];
    }
    for (int s = 0; s < 2; ++s) {
      int32_t& first = sides_[s].first_hold[hold.end[s]];
      hold.next[s] = first;
      if (first != kNone) holds_[first].before[s] = at;
      first = at;
    }
    holds_[at] = hold;
  }

  void remove(int32_t at) {
    const Hold hold = holds_[at];
    for (int s = 0; s < 2; ++s) {
      if (hold.next[s] != kNone) holds_[hold.next[s]].before[s] = hold.before[s];
      int32_t& to_it =
          hold.before[s] == kNone ? sides_[s].first_hold[hold.end[s]] : holds_[hold.before[s]].next[s];
      to_it = hold.next[s];
    }
    holds_[at].next[0] = spare_;
    spare_ = at;
  }

  Side* sides_;
  int32_t* units_;
  std::vector<Hold> holds_;
  int32_t spare_ = kNone;
};

// The shortest path known that joins the searches of both sides: an edge, and what is at its ends.
struct Meeting {
  double length = kInfinity;
  int64_t edge = -1;
  int32_t end[2] = {kNone, kNone};
};

// Dijkstra's method over reduced costs, from one side. It settles nodes of the other side; whoever holds
// units of these is reached at the same distance.
class Search {
 public:
  Search(int side, Side* sides, const double* cost, const Holds& holds, Meeting& meeting)
      : side_(side),
        from_(sides[side]),
        to_(sides[1 - side]),
        cost_(cost),
        holds_(holds),
        meeting_(meeting),
        arrival_(to_.nodes.size()) {}

  int64_t scanned() const { return scanned_; }  // edges

  void begin_at(int32_t x) {
    double least = kInfinity;
    for (int64_t k = from_.start[x]; k < from_.start[x + 1]; ++k) {
      least = std::min(least, cost_[from_.edge_at(k)] - to_.dual[from_.other[k]]);
    }
    from_.dual[x] = least;
    reach(x, 0.0);
  }

  // The distance of what would be settled next.
  double top() {
    while (heap_.empty() && least_beyond_ < kInfinity) widen();
    return heap_.empty() ? kInfinity : heap_[0].distance;
  }

  int32_t settle() {
    const int32_t y = heap_[0].node;
    const Entry last = heap_.back();
    heap_.pop_back();
    if (!heap_.empty()) sink(last);
    settled_.push_back(y);
    return y;
  }

  void expand(int32_t y) {
    for (int32_t at = to_.first_hold[y]; at != kNone; at = holds_[at].next[1 - side_]) {
      const int32_t x = holds_[at].end[side_];
      if (from_.nodes[x].reached < kInfinity) continue;
      from_.nodes[x].hold = at;
      reach(x, to_.nodes[y].tentative);
    }
  }

  // The path to y of the other side as the last edge of what was found.
  void meet_at(int32_t y) {
    meeting_.edge = arrival_[y].edge;
    meeting_.end[side_] = arrival_[y].node;
    meeting_.end[1 - side_] = y;
  }

  // The path ends in y, which was settled and has units left.
  void arrive(int32_t y) {
    meeting_.length = to_.nodes[y].tentative;
    meet_at(y);
    to_.nodes[y].hold = kNone;
  }

  // Of the nodes on the path to x, the first through which the other side's search knows a way that is no
  // longer: behind it the path may come back to where it was, by a loop of length 0.
  int32_t first_meeting(int32_t x) const {
    int32_t first = kNone;
    for (;; x = arrival_[holds_[from_.nodes[x].hold].end[1 - side_]].node) {
      const Node& node = from_.nodes[x];
      if (node.reached + node.tentative <= meeting_.length) first = x;
      if (node.hold == kNone) return first;
    }
  }

  // All that is nearer than `end` becomes as near as what is there.
  void change_duals(double end) {
    for (int32_t y : settled_) {
      const double d = to_.nodes[y].tentative;
      if (d < end) to_.dual[y] += d - end;
    }
    for (int32_t x : reached_) {
      const double d = from_.nodes[x].reached;
      if (d < end) from_.dual[x] += end - d;
    }
  }

  // How many units the path to x lets through.
  int32_t most(int32_t x) const {
    int32_t units = std::numeric_limits<int32_t>::max();
    for (int32_t at; (at = from_.nodes[x].hold) != kNone; x = arrival_[holds_[at].end[1 - side_]].node) {
      units = std::min(units, holds_.units(at));
    }
    return std::min(units, from_.left[x]);
  }

  // Moves them along it: each edge on the path gains what the hold behind it loses.
  void shift(int32_t x, int32_t units, Holds& holds) const {
    for (int32_t at; (at = from_.nodes[x].hold) != kNone;) {
      int32_t end[2];
      end[1 - side_] = holds[at].end[1 - side_];
      const Arrival& arrival = arrival_[end[1 - side_]];
      end[side_] = x = arrival.node;
      holds.take(at, units);
      holds.give(arrival.edge, end[0], end[1], units);
    }
    from_.left[x] -= units;
  }

  // Ready for the next one, which will hardly look farther than this one did.
  void clear(double end) {
    for (int32_t x : reached_) {
      from_.nodes[x].reached = kInfinity;
      from_.nodes[x].hold = kNone;
    }
    for (int32_t y : touched_) to_.nodes[y].tentative = kInfinity;
    reached_.clear();
    touched_.clear();
    settled_.clear();
    heap_.clear();
    scanned_ = 0;
    limit_ = limit_ < kInfinity ? std::max(end, limit_ / 2) : end;
    least_beyond_ = kInfinity;
  }

 private:
  struct Arrival {
    int64_t edge;
    int32_t node;
  };
  struct Entry {
    double distance;
    int32_t node;
  };

  void reach(int32_t x, double distance) {
    from_.nodes[x].reached = distance;
    reached_.push_back(x);
    relax(x);
  }

  void relax(int32_t x) {
    scanned_ += from_.degree(x);
    const double dual = from_.dual[x], distance = from_.nodes[x].reached;
    for (int64_t k = from_.start[x]; k < from_.start[x + 1]; ++k) {
      const int64_t edge = from_.edge_at(k);
      const int32_t y = from_.other[k];
      const double d = distance + std::max(0.0, (cost_[edge] - to_.dual[y]) - dual);
      const double through = d + to_.nodes[y].reached;
      if (through < meeting_.length) {
        meeting_.length = through;
        meeting_.edge = edge;
        meeting_.end[side_] = x;
        meeting_.end[1 - side_] = y;
      }
      if (d > limit_) {
        least_beyond_ = std::min(least_beyond_, d);
      } else if (d < to_.nodes[y].tentative) {
        arrival_[y] = {edge, x};
        lower(y, d);
      }
    }
  }

  // Most of what is seen is never settled: what is farther than the limit waits until that is raised.
  void widen() {
    limit_ = 8 * least_beyond_;
    least_beyond_ = kInfinity;
    for (int32_t x : reached_) relax(x);
  }

  void lower(int32_t y, double d) {
    Node& node = to_.nodes[y];
    if (node.tentative == kInfinity) {
      touched_.push_back(y);
      node.place = static_cast<int32_t>(heap_.size());
      heap_.push_back({});
    }
    node.tentative = d;
    int32_t at = node.place;
    while (at > 0) {
      const int32_t up = (at - 1) / 4;
      if (!(d < heap_[up].distance)) break;
      put(at, heap_[up]);
      at = up;
    }
    put(at, {d, y});
  }

  void sink(Entry entry) {
    int32_t at = 0;
    const int32_t size = static_cast<int32_t>(heap_.size());
    for (;;) {
      const int32_t first = 4 * at + 1, end = std::min(first + 4, size);
      if (first >= size) break;
      int32_t least = first;
      for (int32_t k = first + 1; k < end; ++k) {
        if (heap_[k].distance < heap_[least].distance) least = k;
      }
      if (!(heap_[least].distance < entry.distance)) break;
      put(at, heap_[least]);
      at = least;
    }
    put(at, entry);
  }

  void put(int32_t at, Entry entry) {
    heap_[at] = entry;
    to_.nodes[entry.node].place = at;
  }

  const int side_;
  Side &from_, &to_;
  const double* cost_;
  const Holds& holds_;
  Meeting& meeting_;
  std::vector<Arrival> arrival_;  // how a node of the other side was reached
  std::vector<int32_t> reached_, touched_, settled_;
  std::vector<Entry> heap_;
  int64_t scanned_ = 0;
  double limit_ = kInfinity, least_beyond_ = kInfinity;
};

}  // namespace geodesic_fast

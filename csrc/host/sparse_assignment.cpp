// SPDX-License-Identifier: MIT
#include "sparse_assignment.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <limits>
#include <vector>

#include "assignment_search.h"

namespace geodesic_fast {
namespace {

using Clock = std::chrono::steady_clock;
// Of the costs' size: prices that follow thousands of paths drift so far apart.
constexpr double kKept = 0x1p-49;
constexpr int64_t kEdgesBetweenLooks = 1 << 16;  // at the clock
constexpr int64_t kEdgesAlone = 1024;            // a search sees before one from the columns joins it
constexpr double kStepsForSearch = 4;  // times the root of the number of columns: what a search costs

Side side(int64_t nodes, const int32_t* units) {
  const size_t n = static_cast<size_t>(nodes);
  return {nullptr,
          nullptr,
          nullptr,
          {units, units + n},
          std::vector<double>(n),
          std::vector<Node>(n),
          std::vector<int32_t>(n, kNone)};
}

}  // namespace

class AssignmentSolver::State {
 public:
  explicit State(const SparseAssignment& problem)
      : p_(problem),
        g_(problem.graph),
        sides_{side(g_.rows, g_.supply), side(g_.cols, g_.demand)},
        holds_(sides_, p_.flow),
        forward_(0, sides_, p_.cost, holds_, meeting_),
        backward_(1, sides_, p_.cost, holds_, meeting_) {
    rows_.start = g_.row_start;
    rows_.other = g_.col;
    cols_.dual.assign(p_.v, p_.v + g_.cols);
  }

  // Each stage says whether it ended before time was up, and holds its place where not.
  SparseStatus run(double seconds) {
    deadline_ =
        Clock::now() + std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(seconds));
    SparseStatus status = SparseStatus::kSolved;
    while (stage_ != nullptr && status == SparseStatus::kSolved) {
      if (!(this->*stage_)()) status = SparseStatus::kOutOfTime;
    }
    std::copy(cols_.dual.begin(), cols_.dual.end(), p_.v);
    return stage_ == nullptr && !found_all_ ? SparseStatus::kNoFlow : status;
  }

  const SparseAssignment& problem() const { return p_; }

 private:
  using Stage = bool (State::*)();
  struct Least {
    double value, second;
    int64_t edge, second_edge;
  };

  // Whether time is up; the clock is read once for many edges.
  bool late(int64_t edges) {
    looked_ += edges;
    if (looked_ < kEdgesBetweenLooks) return false;
    looked_ = 0;
    return Clock::now() > deadline_;
  }

  bool each_row(void (State::*todo)(int32_t), Stage next) {
    for (; row_ < g_.rows; ++row_) {
      if (late(rows_.degree(row_))) return false;
      (this->*todo)(row_);
    }
    row_ = 0;
    stage_ = next;
    return true;
  }

  bool lower_prices() { return each_row(&State::lower_for_heavy_row, &State::keep_flow); }
  bool keep_flow() { return each_row(&State::keep_tight_flow, &State::reduce_rows); }
  bool count_edges() { return each_row(&State::count_row, &State::list_edges); }
  bool list_edges() { return each_row(&State::list_row, &State::search); }
  bool find_duals() { return each_row(&State::find_dual, nullptr); }

  Least least_of(int32_t i) const {
    Least least{kInfinity, kInfinity, -1, -1};
    for (int64_t e = g_.row_start[i]; e < g_.row_start[i + 1]; ++e) {
      const double value = p_.cost[e] - cols_.dual[g_.col[e]];
      if (value < least.value) {
        least = {value, least.value, e, least.edge};
      } else if (value < least.second) {
        least.second = value;
        least.second_edge = e;
      }
    }
    return least;
  }

  void find_dual(int32_t i) { p_.u[i] = least_of(i).value; }

  void assign(int64_t edge, int32_t row, int32_t col, int32_t units) {
    holds_.give(edge, row, col, units);
    rows_.left[row] -= units;
    cols_.left[col] -= units;
  }

  // A new edge that undercuts a row of many units would make them all loose: its column's price falls
  // instead, which loosens only the few units that the column takes.
  void lower_for_heavy_row(int32_t i) {
    if (g_.supply[i] == 1) return;
    double held = -kInfinity;
    for (int64_t e = g_.row_start[i]; e < g_.row_start[i + 1]; ++e) {
      if (p_.flow[e] > 0) held = std::max(held, p_.cost[e] - cols_.dual[g_.col[e]]);
    }
    if (held == -kInfinity) return;
    for (int64_t e = g_.row_start[i]; e < g_.row_start[i + 1]; ++e) {
      double& v = cols_.dual[g_.col[e]];
      if (g_.demand[g_.col[e]] < g_.supply[i]) v = std::min(v, p_.cost[e] - held);
    }
  }

  // Flow that new edges or new duals made loose is dropped; the rest is still part of an optimum.
  void keep_tight_flow(int32_t i) {
    const double least = rows_.dual[i] = least_of(i).value;
    for (int64_t e = g_.row_start[i]; e < g_.row_start[i + 1]; ++e) {
      if (p_.flow[e] == 0) continue;
      const int32_t j = g_.col[e];
      const double c = p_.cost[e], v = cols_.dual[j];
      const bool tight = c - v <= least + kKept * (std::fabs(c) + std::fabs(v));
      const int32_t units = tight ? std::min({p_.flow[e], rows_.left[i], cols_.left[j]}) : 0;
      p_.flow[e] = 0;
      if (units > 0) assign(e, i, j, units);
    }
    if (rows_.left[i] > 0) free_.push_back(i);
  }

  // Augmenting row reduction: a free row takes its cheapest column and lowers that column's price until its
  // second choice costs the same; whom it displaces comes after all others. A column of several units is
  // only filled up: its price belongs to all who hold it. This goes on while it places half of the rows in
  // less time than searches would.
  bool reduce_rows() {
    const double search = kStepsForSearch * std::sqrt(static_cast<double>(g_.cols));
    for (;;) {
      for (; at_ < free_.size(); ++at_) {
        if (late(rows_.degree(free_[at_]))) return false;
        if (!reduce_row(free_[at_])) stuck_.push_back(free_[at_]);
      }
      free_.swap(displaced_);
      displaced_.clear();
      at_ = 0;
      if (free_.size() <= half_) {
        half_ = free_.size() / 2;
        steps_ = 0;
      }
      steps_ += free_.size();
      if (free_.empty() || static_cast<double>(steps_) > search * static_cast<double>(half_ + 1)) break;
    }
    free_.insert(free_.end(), stuck_.begin(), stuck_.end());
    stage_ = &State::begin_search;
    return true;
  }

  bool reduce_row(int32_t row) {
    ++p_.reductions;
    const Least least = least_of(row);
    rows_.dual[row] = least.value;
    if (least.second == kInfinity) return false;
    int64_t edge = least.edge;
    const bool alone = g_.demand[g_.col[edge]] == 1;
    const double v = cols_.dual[g_.col[edge]], lowered = v - (least.second - least.value);
    const bool lowers = alone && lowered < v;
    if (!lowers && cols_.left[g_.col[edge]] == 0 && least.second == least.value) edge = least.second_edge;
    const int32_t col = g_.col[edge];
    if (!lowers && cols_.left[col] == 0) return false;
    if (lowers) {
      cols_.dual[col] = lowered;
      rows_.dual[row] = least.second;
    }
    if (cols_.left[col] == 0) {
      const int32_t at = cols_.first_hold[col], holder = holds_[at].end[0];
      holds_.take(at, 1);
      cols_.left[col] = 1;
      if (rows_.left[holder]++ == 0 && holder != row) displaced_.push_back(holder);
    }
    assign(edge, row, col, std::min(rows_.left[row], cols_.left[col]));
    if (rows_.left[row] > 0) displaced_.push_back(row);
    return true;
  }

  // One shortest path from a row with units left to a column with units left. Rows that are still free are
  // so because the way out of their neighbourhood is long, columns because the way in is, and between them
  // nearly everything is near: searches from both ends meet when each has seen little.
  bool begin_search() {
    while (!free_.empty() && rows_.left[free_.back()] == 0) free_.pop_back();
    stage_ = free_.empty() ? &State::find_duals : &State::search;
    found_all_ = free_.empty();
    if (found_all_) return true;
    meeting_ = {};
    both_ = false;
    forward_.begin_at(free_.back());
    return true;
  }

  bool search() {
    for (;;) {
      const double ahead = forward_.top(), behind = both_ ? backward_.top() : 0.0;
      if (meeting_.length < kInfinity && ahead + behind >= meeting_.length) break;
      if (!both_ && forward_.scanned() > kEdgesAlone) {
        if (cols_.start == nullptr) {
          stage_ = &State::count_edges;
          return true;
        }
        begin_backward();
        continue;
      }
      const int s = both_ && backward_.scanned() < forward_.scanned() ? 1 : 0;
      Search& search = s == 0 ? forward_ : backward_;
      if (search.top() == kInfinity) {  // nothing to be found
        stage_ = nullptr;
        return true;
      }
      const int64_t before = search.scanned();
      const int32_t y = search.settle();
      if (sides_[1 - s].left[y] > 0) {
        search.arrive(y);
        finish(s == 0 ? meeting_.length : 0.0);
        return true;
      }
      search.expand(y);
      if (late(1 + search.scanned() - before)) return false;
    }
    const int32_t row = forward_.first_meeting(meeting_.end[0]);
    if (row != kNone) backward_.meet_at(row);
    finish(std::min(forward_.top(), meeting_.length));
    return true;
  }

  void begin_backward() {
    while (cols_.left[open_col_] == 0) ++open_col_;
    backward_.begin_at(open_col_);
    both_ = true;
  }

  void finish(double forward_end) {
    ++p_.augmentations;
    p_.scanned += forward_.scanned() + backward_.scanned();
    const double backward_end = meeting_.length - forward_end;
    forward_.change_duals(forward_end);
    backward_.change_duals(backward_end);
    const int32_t row = meeting_.end[0], col = meeting_.end[1];
    const int32_t units = std::min(forward_.most(row), backward_.most(col));
    forward_.shift(row, units, holds_);
    backward_.shift(col, units, holds_);
    holds_.give(meeting_.edge, row, col, units);
    forward_.clear(forward_end);
    backward_.clear(backward_end);
    stage_ = &State::begin_search;
  }

  // The edges of each column, in one array: where each column's begin, then they themselves.
  void count_row(int32_t i) {
    if (i == 0) col_start_.assign(g_.cols + 1, 0);
    for (int64_t e = g_.row_start[i]; e < g_.row_start[i + 1]; ++e) ++col_start_[g_.col[e]];
    if (i + 1 < g_.rows) return;
    int64_t end = 0;
    for (int64_t& start : col_start_) start = end += start;
    col_row_.resize(end);
    col_edge_.resize(end);
  }

  void list_row(int32_t i) {
    for (int64_t e = g_.row_start[i]; e < g_.row_start[i + 1]; ++e) {
      const int64_t k = --col_start_[g_.col[e]];
      col_row_[k] = i;
      col_edge_[k] = e;
    }
    if (i + 1 < g_.rows) return;
    cols_.start = col_start_.data();
    cols_.other = col_row_.data();
    cols_.edge = col_edge_.data();
  }

  SparseAssignment p_;
  const SparseGraph g_;
  Side sides_[2];
  Side &rows_ = sides_[0], &cols_ = sides_[1];
  Holds holds_;
  Meeting meeting_;
  Search forward_, backward_;
  bool both_ = false, found_all_ = false;
  std::vector<int64_t> col_start_, col_edge_;
  std::vector<int32_t> col_row_;
  std::vector<int32_t> free_, displaced_, stuck_;
  size_t at_ = 0, half_ = std::numeric_limits<size_t>::max(), steps_ = 0;
  int32_t row_ = 0, open_col_ = 0;
  int64_t looked_ = 0;
  Clock::time_point deadline_;
  Stage stage_ = &State::lower_prices;
};

AssignmentSolver::AssignmentSolver(const SparseAssignment& problem)
    : state_(std::make_unique<State>(problem)) {}
AssignmentSolver::~AssignmentSolver() = default;
SparseStatus AssignmentSolver::run(double seconds) { return state_->run(seconds); }
const SparseAssignment& AssignmentSolver::problem() const { return state_->problem(); }

}  // namespace geodesic_fast

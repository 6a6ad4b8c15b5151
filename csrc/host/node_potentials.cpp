// SPDX-License-Identifier: MIT
#include "node_potentials.h"

#include <deque>
#include <vector>

namespace geodesic_fast {

// Label correcting, first in first out: what was lowered is looked at again.
bool lower_potentials(const NodePotentials& problem) {
  std::deque<int32_t> waiting;
  std::vector<char> waits(problem.nodes, 1);
  for (int64_t i = 0; i < problem.nodes; ++i) waiting.push_back(static_cast<int32_t>(i));
  int64_t left = problem.most_looks;
  while (!waiting.empty()) {
    const int32_t tail = waiting.front();
    waiting.pop_front();
    waits[tail] = 0;
    left -= problem.start[tail + 1] - problem.start[tail];
    if (left < 0) return false;
    for (int64_t e = problem.start[tail]; e < problem.start[tail + 1]; ++e) {
      const double reach = problem.potential[tail] + problem.length[e];
      const int32_t head = problem.head[e];
      if (!(reach < problem.potential[head])) continue;
      problem.potential[head] = reach;
      if (waits[head]) continue;
      waits[head] = 1;
      waiting.push_back(head);
    }
  }
  return true;
}

}  // namespace geodesic_fast

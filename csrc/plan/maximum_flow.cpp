#include "plan/maximum_flow.hpp"

#include <algorithm>
#include <limits>

namespace dynatrain {

void MaximumFlow::add_edge(std::size_t from, std::size_t to, std::int64_t capacity) {
  edges_of_[from].push_back(edges_.size());
  edges_.push_back({.to = to, .left = capacity});
  edges_of_[to].push_back(edges_.size());
  edges_.push_back({.to = from, .left = 0});
}

std::int64_t MaximumFlow::run(std::size_t source, std::size_t sink) {
  std::int64_t flow = 0;
  for (;;) {
    levels_ = levels_from(source);
    if (levels_[sink] < 0) {
      return flow;
    }
    next_.assign(edges_of_.size(), 0);
    while (const std::int64_t more = push(source, sink)) {
      flow += more;
    }
  }
}

std::vector<bool> MaximumFlow::side_of_source(std::size_t source) const {
  const std::vector<int> levels = levels_from(source);
  std::vector<bool> side(levels.size());
  std::transform(levels.begin(), levels.end(), side.begin(), [](int level) { return level >= 0; });
  return side;
}

/// Edges between each node and the source over what can still take something; -1 where nothing can.
std::vector<int> MaximumFlow::levels_from(std::size_t source) const {
  std::vector<int> levels(edges_of_.size(), -1);
  std::vector<std::size_t> queue{source};
  levels[source] = 0;
  for (std::size_t i = 0; i < queue.size(); ++i) {
    const std::size_t node = queue[i];
    for (const std::size_t index : edges_of_[node]) {
      const Edge& edge = edges_[index];
      if (edge.left > 0 && levels[edge.to] < 0) {
        levels[edge.to] = levels[node] + 1;
        queue.push_back(edge.to);
      }
    }
  }
  return levels;
}

/// Sends as much as one path of ascending levels takes; 0 when there is none.
std::int64_t MaximumFlow::push(std::size_t source, std::size_t sink) {
  std::vector<std::size_t> path;
  std::size_t node = source;
  while (node != sink) {
    std::size_t& next = next_[node];
    while (next < edges_of_[node].size()) {
      const Edge& edge = edges_[edges_of_[node][next]];
      if (edge.left > 0 && levels_[edge.to] == levels_[node] + 1) {
        break;
      }
      ++next;
    }
    if (next < edges_of_[node].size()) {
      path.push_back(edges_of_[node][next]);
      node = edges_[path.back()].to;
    } else if (path.empty()) {
      return 0;
    } else {
      node = edges_[path.back() ^ 1U].to;  // a dead end: one step back, past this edge
      path.pop_back();
      ++next_[node];
    }
  }
  std::int64_t flow = std::numeric_limits<std::int64_t>::max();
  for (const std::size_t index : path) {
    flow = std::min(flow, edges_[index].left);
  }
  for (const std::size_t index : path) {
    edges_[index].left -= flow;
    edges_[index ^ 1U].left += flow;
  }
  return flow;
}

}  // namespace dynatrain

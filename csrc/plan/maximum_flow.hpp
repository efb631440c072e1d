#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace dynatrain {

/// The largest flow from a source to a sink over edges of limited capacity, by Dinic's algorithm.
class MaximumFlow {
 public:
  explicit MaximumFlow(std::size_t num_nodes) : edges_of_(num_nodes) {}

  void add_edge(std::size_t from, std::size_t to, std::int64_t capacity);

  /// Cost     O(nodes² · edges), in practice a few passes over the edges.
  [[nodiscard]] std::int64_t run(std::size_t source, std::size_t sink);
  /// Behind run(): nodes on the source's side of the cut that is nearest to the source.
  [[nodiscard]] std::vector<bool> side_of_source(std::size_t source) const;

 private:
  struct Edge {
    std::size_t to = 0;
    std::int64_t left = 0;  ///< capacity that nothing flows through
  };

  [[nodiscard]] std::vector<int> levels_from(std::size_t source) const;
  [[nodiscard]] std::int64_t push(std::size_t source, std::size_t sink);

  std::vector<Edge> edges_;  ///< the one at i ^ 1 leads back
  std::vector<std::vector<std::size_t>> edges_of_;
  std::vector<int> levels_;        ///< of the pass under way
  std::vector<std::size_t> next_;  ///< of each node: its first edge that may still take something
};

}  // namespace dynatrain

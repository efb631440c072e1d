#pragma once

#include "dynatrain/plan/plan.hpp"

#include <cstdint>
#include <map>
#include <utility>
#include <vector>

namespace dynatrain {

/// Cells whose pieces are dealt together: the owners that may send, the needers that lack the cell.
/// All of its members walk its cells in the same order, so they keep the same books.
struct SenderGroup {
  std::vector<int> candidates;  ///< ascending
  std::vector<int> needers;     ///< ascending, none of them a candidate
  std::vector<std::int64_t>
      dealt_bytes;  ///< per candidate, of the pieces that were not dealt in turn
};

/// A piece of a cell, and who sends it to whom.
struct Share {
  Box box;
  int src_rank = 0;
  int dst_rank = 0;
};

/// Deals the cells of a switch to their senders, seen from one rank. See docs/design/plan.md, "Who
/// sends". Threads: one at a time.
class SenderBook {
 public:
  SenderBook(const DecisionRecord& record, int rank) : record_(record), rank_(rank) {}

  /// Returns the groups of a cell that this rank belongs to, made where they are new.
  /// Shapes   both lists ascending and disjoint; `owners` is not empty.
  [[nodiscard]] std::vector<int> groups_of(const std::vector<int>& owners,
                                           const std::vector<int>& lacking);

  /// Returns the shares of one cell that this rank sends or receives, and books the cell.
  [[nodiscard]] std::vector<Share> deal(int group,
                                        const Box& cell,
                                        TensorId tensor,
                                        std::int64_t elem_bytes);

 private:
  [[nodiscard]] int node_of(int rank) const;
  [[nodiscard]] int intern(std::vector<int> candidates, std::vector<int> needers);

  const DecisionRecord& record_;
  int rank_;
  std::vector<SenderGroup> groups_;
  std::map<std::pair<std::vector<int>, std::vector<int>>, int> group_ids_;
};

}  // namespace dynatrain

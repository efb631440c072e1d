#pragma once

#include "dynatrain/plan/plan.hpp"

#include "plan/cell_table.hpp"
#include <cstdint>
#include <map>
#include <vector>

namespace dynatrain {

/// A piece of a cell, and who sends it to whom; both are one rank where it holds what it needs.
struct Share {
  Box box;
  int src_rank = 0;
  int dst_rank = 0;
};

/// Cells whose pieces are dealt together: the owners that may send, the needers that lack the cell.
/// All of its members walk its cells in the same order, so they keep the same books.
struct SenderGroup {
  std::vector<int> candidates;  ///< ascending
  std::vector<int> needers;     ///< ascending, none of them a candidate
  std::vector<std::int64_t>
      dealt_bytes;  ///< per candidate, of the pieces that were not dealt in turn
};

/// What one rank does in every cell of some owners and needers.
struct SenderRole {
  bool keeps = false;                ///< it holds what it needs
  std::vector<SenderGroup*> groups;  ///< that it belongs to
};

/// Chooses who sends the cells of a switch, seen from one rank. See docs/design/plan.md, "Who
/// sends". Threads: one at a time.
class Senders {
 public:
  Senders(const DecisionRecord& record, int rank) : record_(record), rank_(rank) {}

  /// Returns this rank's role in cells of `parties`; it lives as long as this.
  [[nodiscard]] SenderRole role_in(const Parties& parties);
  /// Returns the shares of one cell that this rank keeps, sends or receives, and books the cell.
  /// Cells come by tensor, then by place.
  [[nodiscard]] std::vector<Share> choose(const Cell& cell,
                                          const SenderRole& role,
                                          TensorId tensor,
                                          std::int64_t elem_bytes);

 private:
  [[nodiscard]] SenderGroup* group_of(std::vector<int> candidates, std::vector<int> needers);
  [[nodiscard]] std::vector<Share> deal(SenderGroup& group,
                                        const Box& cell,
                                        TensorId tensor,
                                        std::int64_t elem_bytes);

  const DecisionRecord& record_;
  int rank_;
  std::map<Parties, SenderGroup> groups_;  ///< by candidates and needers
};

}  // namespace dynatrain

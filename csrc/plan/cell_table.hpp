#pragma once

#include "dynatrain/layout/shard_map.hpp"

#include <compare>
#include <cstdint>
#include <optional>
#include <vector>

namespace dynatrain {

/// Who holds a box and who needs it; both lists ascending, neither empty.
struct Parties {
  std::vector<int> owners;
  std::vector<int> needers;

  friend auto operator<=>(const Parties&, const Parties&) = default;
};

/// A box on which owners and needers are constant.
struct Cell {
  Box box;
  Parties parties;
  std::vector<std::int32_t> source_boxes;  ///< which of CellTable::source cover it
  std::vector<std::int32_t> target_boxes;  ///< which of CellTable::target cover it
};

/// The cells of one rank for one pair of shardings of one shape; serves every tensor that has both.
struct CellTable {
  std::vector<OwnedBox> source;
  std::vector<OwnedBox> target;
  std::vector<Cell> cells;  ///< by begin; disjoint
};

/// Derives the cells that `rank`, or without one any rank, holds or needs, and that anybody needs.
/// Errors   LayoutError naming `tensor`, box and rank when the rank needs a cell without owner.
/// Cost     O(boxes log boxes) per dimension, plus the cells that involve the rank.
/// Source   own; docs/design/plan.md, "Cells".
[[nodiscard]] CellTable make_cell_table(const LogicalTensor& tensor,
                                        const Sharding& source,
                                        const Sharding& target,
                                        std::optional<int> rank);

/// The box, of those that cover a cell, that `rank` holds.
/// Errors   InternalError when it holds none of them.
[[nodiscard]] std::int32_t box_held_by(const std::vector<OwnedBox>& boxes,
                                       const std::vector<std::int32_t>& covering,
                                       int rank);

}  // namespace dynatrain

#include "plan/cell_table.hpp"

#include "dynatrain/base/error.hpp"

#include <algorithm>
#include <string>

namespace dynatrain {
namespace {

/// A box of either map on its way through the sweep.
struct Active {
  const OwnedBox* owned = nullptr;
  std::int32_t index = 0;
  bool is_source = false;
  bool has_rank = false;
};

bool holds(const std::vector<int>& ascending, int rank) {
  return std::ranges::binary_search(ascending, rank);
}

/// The ranks of all covering boxes of one side, ascending. Tied unions may give several boxes.
std::vector<int> ranks_of(const std::vector<OwnedBox>& boxes,
                          const std::vector<std::int32_t>& covering) {
  std::vector<int> ranks;
  for (const std::int32_t index : covering) {
    const std::vector<int>& more = boxes[static_cast<std::size_t>(index)].ranks;
    ranks.insert(ranks.end(), more.begin(), more.end());
  }
  if (covering.size() > 1) {
    std::ranges::sort(ranks);
    const auto repeated = std::ranges::unique(ranks);
    ranks.erase(repeated.begin(), repeated.end());
  }
  return ranks;
}

[[noreturn]] void fail_no_owner(const LogicalTensor& tensor, const Box& box, int rank) {
  throw LayoutError("plan: nobody holds a part of '" + tensor.name + "' that rank " +
                    std::to_string(rank) + " needs\n  box " + box.to_string() + ", " +
                    std::to_string(box.num_elements()) + " elements of " + tensor.dtype.name +
                    "; the tensor has shape " + tensor.shape.to_string() +
                    "\n  nothing was moved; the source state is intact\n" +
                    "  add a source rank that holds it, or fetch it from a snapshot first");
}

/// Cuts dimension after dimension, each only by the boxes that reach the slab at hand.
class Sweep {
 public:
  Sweep(const LogicalTensor& tensor, CellTable& table, std::optional<int> rank)
      : tensor_(tensor), table_(table), rank_(rank), box_(Box::whole(tensor.shape)) {}

  void run() {
    std::vector<Active> active;
    add(active, table_.source, true);
    add(active, table_.target, false);
    if (is_wanted(active)) {
      descend(0, active);
    }
  }

 private:
  void add(std::vector<Active>& active, const std::vector<OwnedBox>& boxes, bool is_source) const {
    for (std::size_t i = 0; i < boxes.size(); ++i) {
      active.push_back({.owned = &boxes[i],
                        .index = static_cast<std::int32_t>(i),
                        .is_source = is_source,
                        .has_rank = !rank_.has_value() || holds(boxes[i].ranks, *rank_)});
    }
  }

  /// A slab without this rank, or that nobody needs, holds no cell of this rank.
  static bool is_wanted(const std::vector<Active>& active) {
    return std::ranges::any_of(active, &Active::has_rank) &&
           !std::ranges::all_of(active, &Active::is_source);
  }

  void descend(int dim, std::vector<Active>& active) {
    if (dim == box_.rank()) {
      finish(active);
      return;
    }
    std::ranges::stable_sort(
        active, {}, [dim](const Active& item) { return item.owned->box.begin[dim]; });
    const std::vector<std::int64_t> cuts = cut_points(active, dim);
    std::vector<Active> live;
    auto next = active.begin();
    for (std::size_t i = 0; i + 1 < cuts.size(); ++i) {
      std::erase_if(live, [&](const Active& item) { return item.owned->box.end[dim] <= cuts[i]; });
      while (next != active.end() && next->owned->box.begin[dim] <= cuts[i]) {
        live.push_back(*next++);
      }
      if (is_wanted(live)) {
        box_.begin[dim] = cuts[i];
        box_.end[dim] = cuts[i + 1];
        std::vector<Active> below = live;
        descend(dim + 1, below);
      }
    }
  }

  static std::vector<std::int64_t> cut_points(const std::vector<Active>& active, int dim) {
    std::vector<std::int64_t> cuts;
    cuts.reserve(2 * active.size());
    for (const Active& item : active) {
      cuts.push_back(item.owned->box.begin[dim]);
      cuts.push_back(item.owned->box.end[dim]);
    }
    std::ranges::sort(cuts);
    const auto repeated = std::ranges::unique(cuts);
    cuts.erase(repeated.begin(), repeated.end());
    return cuts;
  }

  void finish(const std::vector<Active>& active) {
    Cell cell;
    cell.box = box_;
    for (const Active& item : active) {
      (item.is_source ? cell.source_boxes : cell.target_boxes).push_back(item.index);
    }
    cell.parties = {.owners = ranks_of(table_.source, cell.source_boxes),
                    .needers = ranks_of(table_.target, cell.target_boxes)};
    if (cell.parties.owners.empty()) {
      fail_no_owner(tensor_, box_, rank_.value_or(cell.parties.needers.front()));
    }
    table_.cells.push_back(std::move(cell));
  }

  const LogicalTensor& tensor_;
  CellTable& table_;
  std::optional<int> rank_;
  Box box_;
};

}  // namespace

CellTable make_cell_table(const LogicalTensor& tensor,
                          const Sharding& source,
                          const Sharding& target,
                          std::optional<int> rank) {
  CellTable table{.source = source.owned_boxes(tensor.shape),
                  .target = target.owned_boxes(tensor.shape),
                  .cells = {}};
  Sweep(tensor, table, rank).run();
  return table;
}

std::int32_t box_held_by(const std::vector<OwnedBox>& boxes,
                         const std::vector<std::int32_t>& covering,
                         int rank) {
  for (const std::int32_t index : covering) {
    if (holds(boxes[static_cast<std::size_t>(index)].ranks, rank)) {
      return index;
    }
  }
  throw InternalError("plan: rank " + std::to_string(rank) +
                      " holds none of the boxes that cover a cell\n  please report this");
}

}  // namespace dynatrain

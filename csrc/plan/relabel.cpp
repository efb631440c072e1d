#include "dynatrain/plan/relabel.hpp"

#include "dynatrain/base/checked.hpp"
#include "dynatrain/base/error.hpp"

#include "plan/assignment.hpp"
#include "plan/cell_table.hpp"
#include <algorithm>
#include <cstddef>
#include <map>
#include <numeric>
#include <optional>
#include <string>
#include <tuple>
#include <unordered_map>
#include <utility>

namespace dynatrain {
namespace {

/// An assignment of more takes seconds.
constexpr std::size_t kMostAssigned = 1024;
/// Of what moves: below it another world is not worth its making.
constexpr double kLeastSaved = 0.05;

/// The cells of every tensor with the same shape and shardings, and the bytes of one element of all
/// of these tensors together.
struct CellsOfMany {
  CellTable table;
  std::int64_t elem_bytes = 0;
};

std::vector<CellsOfMany> cells_of_all(const ShardMap& source, const ShardMap& target) {
  using Key = std::tuple<Shape, std::uint64_t, std::uint64_t>;
  std::map<Key, std::size_t> known;
  std::unordered_map<const Sharding*, std::uint64_t> hashes;
  const auto hash_of = [&](const Sharding& sharding) {
    const auto [entry, is_new] = hashes.try_emplace(&sharding, 0);
    if (is_new) {
      entry->second = sharding.hash();
    }
    return entry->second;
  };
  std::vector<CellsOfMany> all;
  for (std::size_t i = 0; i < source.num_tensors(); ++i) {
    const TensorId id(static_cast<std::int64_t>(i));
    const LogicalTensor& tensor = source.tensor(id);
    const auto [entry, is_new] = known.try_emplace(
        {tensor.shape, hash_of(source.sharding(id)), hash_of(target.sharding(id))}, all.size());
    if (is_new) {
      all.push_back({.table = make_cell_table(
                         tensor, source.sharding(id), target.sharding(id), std::nullopt)});
    }
    all[entry->second].elem_bytes += tensor.dtype.size_bytes;
  }
  return all;
}

/// The ranks of one node, by their place in the natural order.
using Seats = std::vector<std::size_t>;

class Relabel {
 public:
  Relabel(const ShardMap& source,
          const ShardMap& target,
          const DecisionRecord& record,
          std::span<const int> ranks)
      : cells_(cells_of_all(source, target)),
        record_(record),
        natural_(ranks.begin(), ranks.end()) {
    std::map<int, std::size_t> number_of_node;
    for (std::size_t seat = 0; seat < natural_.size(); ++seat) {
      const int rank = natural_[seat];
      const auto [entry, is_new] =
          number_of_node.try_emplace(record.node_of(rank), number_of_node.size());
      if (is_new) {
        nodes_.emplace_back();
      }
      nodes_[entry->second].push_back(seat);
      node_of_seat_.push_back(entry->second);
      if (!seat_of_.try_emplace(rank, seat).second) {
        throw_unfit(rank, "is there twice");
      }
    }
    for (int rank = 0; rank < target.num_ranks(); ++rank) {
      if (target.bytes_of_rank(rank) > 0 && !seat_of_.contains(rank)) {
        throw_unfit(rank, "has a place in the target, and is none of them");
      }
    }
  }

  Relabelling run() {
    Relabelling natural = counted(natural_);
    natural.natural_moved_bytes = natural.moved_bytes;
    natural.natural_moved_far_bytes = natural.moved_far_bytes;
    std::vector<std::size_t> own_node(nodes_.size());
    std::iota(own_node.begin(), own_node.end(), std::size_t{0});
    std::vector<std::vector<std::size_t>> tried{nodes_of_blocks()};
    if (tried.front() != own_node) {
      tried.push_back(own_node);
    }
    for (const std::vector<std::size_t>& node_of_block : tried) {
      Relabelling found = counted(within(node_of_block));
      if (is_better(found, natural)) {
        found.natural_moved_bytes = natural.moved_bytes;
        found.natural_moved_far_bytes = natural.moved_far_bytes;
        return found;
      }
    }
    return natural;
  }

 private:
  [[noreturn]] static void throw_unfit(int rank, const std::string& what) {
    throw LayoutError("plan: of the ranks that are to take places, rank " + std::to_string(rank) +
                      " " + what +
                      "\n  expected each rank once, and all that the target's map knows\n"
                      "  nothing was relabelled\n  give the ranks by which the map was made");
  }

  /// In nothing worse, and clearly better in what moves or in what moves between nodes.
  static bool is_better(const Relabelling& found, const Relabelling& natural) {
    const auto is_less = [](std::int64_t bytes, std::int64_t natural_bytes) {
      const auto saved = static_cast<double>(natural_bytes - bytes);
      return saved > 0 && saved >= kLeastSaved * static_cast<double>(natural_bytes);
    };
    return found.moved_bytes <= natural.moved_bytes &&
           found.moved_far_bytes <= natural.moved_far_bytes &&
           (is_less(found.moved_bytes, natural.moved_bytes) ||
            is_less(found.moved_far_bytes, natural.moved_far_bytes));
  }

  /// Calls `visit(cell, bytes)` for all cells.
  template <class Visit>
  void for_each_cell(const Visit& visit) const {
    for (const CellsOfMany& many : cells_) {
      for (const Cell& cell : many.table.cells) {
        visit(cell.parties, checked_mul(cell.box.num_elements(), many.elem_bytes));
      }
    }
  }

  /// The numbers of the nodes of these ranks that anybody may take a place on, ascending.
  [[nodiscard]] std::vector<std::size_t> nodes_of(const std::vector<int>& ranks) const {
    std::vector<std::size_t> nodes;
    for (const int rank : ranks) {
      if (const auto seat = seat_of_.find(rank); seat != seat_of_.end()) {
        nodes.push_back(node_of_seat_[seat->second]);
      }
    }
    std::ranges::sort(nodes);
    const auto repeated = std::ranges::unique(nodes);
    nodes.erase(repeated.begin(), repeated.end());
    return nodes;
  }

  /// By block, as naturally on the node of that number: the node that it goes to.
  [[nodiscard]] std::vector<std::size_t> nodes_of_blocks() const {
    Gains gains(nodes_.size());
    for_each_cell([&](const Parties& parties, std::int64_t size_bytes) {
      const std::vector<std::size_t> owners = nodes_of(parties.owners);
      for (const int needer : parties.needers) {
        for (const std::size_t node : owners) {
          gains.add(node_of_seat_[seat_of_.at(needer)], node, size_bytes);
        }
      }
    });
    std::map<std::size_t, std::vector<std::size_t>> nodes_by_size;
    for (std::size_t node = 0; node < nodes_.size(); ++node) {
      nodes_by_size[nodes_[node].size()].push_back(node);
    }
    std::vector<std::size_t> node_of_block(nodes_.size());
    for (const auto& [size, alike] : nodes_by_size) {
      Gains of_alike(alike.size());
      for (std::size_t row = 0; row < alike.size(); ++row) {
        for (std::size_t column = 0; column < alike.size(); ++column) {
          of_alike.add(row, column, gains.at(alike[row], alike[column]));
        }
      }
      const std::vector<std::size_t> columns = assigned(of_alike);
      for (std::size_t row = 0; row < alike.size(); ++row) {
        node_of_block[alike[row]] = alike[columns[row]];
      }
    }
    return node_of_block;
  }

  /// By block: what each of its places gains with each rank of the node that it goes to.
  [[nodiscard]] std::vector<Gains> gains_within(
      const std::vector<std::size_t>& node_of_block) const {
    std::vector<Gains> gains;
    std::vector<std::size_t> number_on_node(natural_.size());
    for (const Seats& seats : nodes_) {
      gains.emplace_back(seats.size());
      for (std::size_t i = 0; i < seats.size(); ++i) {
        number_on_node[seats[i]] = i;
      }
    }
    for_each_cell([&](const Parties& parties, std::int64_t size_bytes) {
      const std::map<std::size_t, Seats> owners = seats_by_node(parties.owners);
      for (const int needer : parties.needers) {
        const std::size_t place = seat_of_.at(needer);
        const std::size_t block = node_of_seat_[place];
        const auto there = owners.find(node_of_block[block]);
        for (const std::size_t owner : there == owners.end() ? Seats{} : there->second) {
          gains[block].add(number_on_node[place], number_on_node[owner], size_bytes);
        }
      }
    });
    return gains;
  }

  /// Where these ranks sit, by node; who takes no place is left out.
  [[nodiscard]] std::map<std::size_t, Seats> seats_by_node(const std::vector<int>& ranks) const {
    std::map<std::size_t, Seats> seats;
    for (const int rank : ranks) {
      if (const auto seat = seat_of_.find(rank); seat != seat_of_.end()) {
        seats[node_of_seat_[seat->second]].push_back(seat->second);
      }
    }
    return seats;
  }

  /// Gives the places of each block to the ranks of its node.
  [[nodiscard]] std::vector<int> within(const std::vector<std::size_t>& node_of_block) const {
    const std::vector<Gains> gains = gains_within(node_of_block);
    std::vector<int> ranks(natural_.size());
    for (std::size_t block = 0; block < nodes_.size(); ++block) {
      const std::vector<std::size_t> columns = assigned(gains[block]);
      const Seats& there = nodes_[node_of_block[block]];
      for (std::size_t i = 0; i < columns.size(); ++i) {
        ranks[nodes_[block][i]] = natural_[there[columns[i]]];
      }
    }
    return ranks;
  }

  static std::vector<std::size_t> assigned(const Gains& gains) {
    if (gains.size() <= kMostAssigned) {
      return best_assignment(gains);
    }
    std::vector<std::size_t> natural(gains.size());
    std::iota(natural.begin(), natural.end(), std::size_t{0});
    return natural;
  }

  /// What is to be moved where these ranks take the places.
  [[nodiscard]] Relabelling counted(std::vector<int> ranks) const {
    Relabelling found;
    for_each_cell([&](const Parties& parties, std::int64_t size_bytes) {
      std::vector<int> nodes(parties.owners.size());
      std::ranges::transform(
          parties.owners, nodes.begin(), [this](int owner) { return record_.node_of(owner); });
      std::ranges::sort(nodes);
      for (const int needer : parties.needers) {
        const int rank = ranks[seat_of_.at(needer)];
        if (!std::ranges::binary_search(parties.owners, rank)) {
          found.moved_bytes = checked_add(found.moved_bytes, size_bytes);
          const bool is_near = std::ranges::binary_search(nodes, record_.node_of(rank));
          found.moved_far_bytes += is_near ? 0 : size_bytes;
        }
      }
    });
    found.ranks = std::move(ranks);
    return found;
  }

  std::vector<CellsOfMany> cells_;
  const DecisionRecord& record_;
  std::vector<int> natural_;
  std::unordered_map<int, std::size_t> seat_of_;  ///< by rank, in natural order
  std::vector<std::size_t> node_of_seat_;
  std::vector<Seats> nodes_;  ///< by number: in order of their first seats
};

}  // namespace

Relabelling relabel(const ShardMap& source,
                    const ShardMap& target,
                    const DecisionRecord& record,
                    std::span<const int> ranks) {
  check_same_tensors(source, target);
  return Relabel(source, target, record, ranks).run();
}

}  // namespace dynatrain

#include "dynatrain/plan/world_traffic.hpp"

#include "dynatrain/base/checked.hpp"
#include "dynatrain/base/strong_id.hpp"
#include "dynatrain/plan/plan.hpp"

#include "plan/cell_table.hpp"
#include <algorithm>
#include <functional>
#include <iterator>
#include <map>
#include <optional>
#include <queue>
#include <tuple>
#include <unordered_map>
#include <utility>

namespace dynatrain {
namespace {

/// The owner with the fewest bytes, though loads grow elsewhere too: they only grow, so what is
/// noted of the first one is either true or too small.
class LeastLoaded {
 public:
  LeastLoaded(const std::vector<int>& owners, const std::vector<std::int64_t>& loads) {
    for (const int owner : owners) {
      first_.emplace(loads[static_cast<std::size_t>(owner)], owner);
    }
  }

  void send(std::vector<std::int64_t>& loads, std::int64_t size_bytes) {
    for (bool is_sent = false; !is_sent;) {
      const auto [noted, owner] = first_.top();
      std::int64_t& load = loads[static_cast<std::size_t>(owner)];
      is_sent = noted == load;
      load += is_sent ? size_bytes : 0;
      first_.pop();
      first_.emplace(load, owner);
    }
  }

 private:
  using Noted = std::pair<std::int64_t, int>;
  std::priority_queue<Noted, std::vector<Noted>, std::greater<>> first_;
};

/// What crosses of every tensor that has a table's shape and shardings.
struct Crossings {
  CellTable table;
  std::vector<std::size_t> cells;        ///< of the table, those that somebody needs and lacks
  std::vector<std::size_t> num_lacking;  ///< how many do, of each of them
};

class Walk {
 public:
  Walk(const ShardMap& source, const ShardMap& target)
      : source_(source),
        target_(target),
        traffic_{
            .demands = {}, .first_owner = loads(), .modulo = loads(), .least_loaded = loads()} {}

  WorldTraffic run() {
    for (std::size_t i = 0; i < source_.num_tensors(); ++i) {
      add(TensorId(static_cast<std::int64_t>(i)));
    }
    for (auto& [owners, size_bytes] : bytes_of_owners_) {
      traffic_.demands.push_back({.owners = owners, .size_bytes = size_bytes});
    }
    return std::move(traffic_);
  }

 private:
  using Key = std::tuple<Shape, std::uint64_t, std::uint64_t>;

  [[nodiscard]] std::vector<std::int64_t> loads() const {
    return std::vector<std::int64_t>(static_cast<std::size_t>(source_.num_ranks()), 0);
  }

  std::uint64_t hash_of(const Sharding& sharding) {
    const auto [entry, is_new] = hashes_.try_emplace(&sharding, 0);
    if (is_new) {
      entry->second = sharding.hash();
    }
    return entry->second;
  }

  const Crossings& crossings_of(TensorId id) {
    const LogicalTensor& tensor = source_.tensor(id);
    const Sharding& source = source_.sharding(id);
    const Sharding& target = target_.sharding(id);
    const auto [entry, is_new] =
        tables_.try_emplace({tensor.shape, hash_of(source), hash_of(target)});
    Crossings& found = entry->second;
    if (is_new) {
      found.table = make_cell_table(tensor, source, target, std::nullopt);
      for (std::size_t i = 0; i < found.table.cells.size(); ++i) {
        const Parties& parties = found.table.cells[i].parties;
        std::vector<int> lacking;
        std::ranges::set_difference(parties.needers, parties.owners, std::back_inserter(lacking));
        if (!lacking.empty()) {
          found.cells.push_back(i);
          found.num_lacking.push_back(lacking.size());
        }
      }
    }
    return found;
  }

  void add(TensorId id) {
    const Crossings& crossings = crossings_of(id);
    for (std::size_t i = 0; i < crossings.cells.size(); ++i) {
      const Cell& cell = crossings.table.cells[crossings.cells[i]];
      const std::int64_t size_bytes =
          checked_mul(cell.box.num_elements(), source_.tensor(id).dtype.size_bytes);
      add(cell.parties.owners, crossings.num_lacking[i], size_bytes);
    }
  }

  void add(const std::vector<int>& owners, std::size_t num_needers, std::int64_t size_bytes) {
    const auto [demand, is_new] = bytes_of_owners_.try_emplace(owners, 0);
    const std::int64_t all_bytes = checked_mul(size_bytes, static_cast<std::int64_t>(num_needers));
    demand->second = checked_add(demand->second, all_bytes);
    at(traffic_.first_owner, owners.front()) += all_bytes;
    auto least = least_.try_emplace(&demand->first, owners, traffic_.least_loaded).first;
    for (std::size_t n = 0; n < num_needers; ++n) {
      at(traffic_.modulo, owners[n % owners.size()]) += size_bytes;
      least->second.send(traffic_.least_loaded, size_bytes);
    }
  }

  static std::int64_t& at(std::vector<std::int64_t>& loads, int rank) {
    return loads[static_cast<std::size_t>(rank)];
  }

  const ShardMap& source_;
  const ShardMap& target_;
  WorldTraffic traffic_;
  std::map<Key, Crossings> tables_;
  std::unordered_map<const Sharding*, std::uint64_t> hashes_;
  std::map<std::vector<int>, std::int64_t> bytes_of_owners_;
  std::unordered_map<const std::vector<int>*, LeastLoaded> least_;
};

}  // namespace

WorldTraffic world_traffic(const ShardMap& source, const ShardMap& target) {
  check_same_tensors(source, target);
  return Walk(source, target).run();
}

std::vector<WorldCell> cells_of(const ShardMap& source, const ShardMap& target, TensorId tensor) {
  check_same_tensors(source, target);
  CellTable table = make_cell_table(
      source.tensor(tensor), source.sharding(tensor), target.sharding(tensor), std::nullopt);
  std::vector<WorldCell> cells;
  cells.reserve(table.cells.size());
  for (Cell& cell : table.cells) {
    cells.push_back({.box = cell.box,
                     .owners = std::move(cell.parties.owners),
                     .needers = std::move(cell.parties.needers)});
  }
  return cells;
}

}  // namespace dynatrain

#include "dynatrain/base/checked.hpp"
#include "dynatrain/base/error.hpp"
#include "dynatrain/plan/world_traffic.hpp"

#include "plan/maximum_flow.hpp"
#include <algorithm>
#include <functional>
#include <iterator>
#include <limits>
#include <string>
#include <utility>
#include <vector>

namespace dynatrain {
namespace {

constexpr std::int64_t kMostUnits = std::int64_t{1} << 61U;
constexpr std::int64_t kNoLimit = std::numeric_limits<std::int64_t>::max();

/// Demands that have nobody but some owners, and what these have to send of them each.
struct Cut {
  std::int64_t size_bytes = 0;  ///< of the demands
  std::vector<int> owners;      ///< ascending
};

void check(const Demand& demand) {
  const bool ascends =
      std::ranges::adjacent_find(demand.owners, std::greater_equal<>()) == demand.owners.end();
  if (demand.owners.empty() || !ascends || demand.size_bytes < 0) {
    throw LayoutError("plan: a demand of " + std::to_string(demand.size_bytes) + " bytes has " +
                      std::to_string(demand.owners.size()) +
                      " owners\n  expected 0 bytes or more, and owners that ascend, one at least"
                      "\n  nothing was planned\n  leave out what nobody has");
  }
}

Cut cut_of(std::span<const Demand> demands, const std::vector<bool>& is_in) {
  Cut cut;
  for (std::size_t i = 0; i < demands.size(); ++i) {
    if (is_in[i]) {
      const Demand& demand = demands[i];
      cut.size_bytes = checked_add(cut.size_bytes, demand.size_bytes);
      cut.owners.insert(cut.owners.end(), demand.owners.begin(), demand.owners.end());
    }
  }
  std::ranges::sort(cut.owners);
  const auto repeated = std::ranges::unique(cut.owners);
  cut.owners.erase(repeated.begin(), repeated.end());
  return cut;
}

double average(const Cut& cut) {
  return static_cast<double>(cut.size_bytes) / static_cast<double>(cut.owners.size());
}

/// Demands that cannot be met together where an owner sends at most what those of `limit` send on
/// average; empty when all can. `all` has all demands.
std::vector<bool> unmet(std::span<const Demand> demands, const Cut& all, const Cut& limit) {
  const std::size_t source = demands.size() + all.owners.size();
  const std::size_t sink = source + 1;
  // Everything times the number of owners in the limit, so that its average is a whole number; in
  // units of more than a byte where that would not fit.
  const auto scale = static_cast<std::int64_t>(limit.owners.size());
  const std::int64_t unit_bytes = 1 + all.size_bytes / (kMostUnits / scale);
  MaximumFlow network(sink + 1);
  std::int64_t wanted = 0;
  for (std::size_t i = 0; i < demands.size(); ++i) {
    const std::int64_t capacity = demands[i].size_bytes / unit_bytes * scale;
    wanted += capacity;
    network.add_edge(source, i, capacity);
    for (const int owner : demands[i].owners) {
      const auto place = std::ranges::lower_bound(all.owners, owner) - all.owners.begin();
      network.add_edge(i, demands.size() + static_cast<std::size_t>(place), kNoLimit);
    }
  }
  for (std::size_t k = 0; k < all.owners.size(); ++k) {
    network.add_edge(demands.size() + k, sink, limit.size_bytes / unit_bytes);
  }
  if (network.run(source, sink) == wanted) {
    return {};
  }
  std::vector<bool> side = network.side_of_source(source);
  side.resize(demands.size());
  return side;
}

}  // namespace

EgressBound least_egress(std::span<const Demand> demands) {
  for (const Demand& demand : demands) {
    check(demand);
  }
  const Cut all = cut_of(demands, std::vector<bool>(demands.size(), true));
  if (all.size_bytes == 0) {
    return {};
  }
  // The average of a cut bounds the busiest of its owners. What cannot be met under that bound has
  // a larger average, so each step raises it. Where everything is met no cut is higher.
  Cut highest = all;
  for (;;) {
    const std::vector<bool> left = unmet(demands, all, highest);
    const Cut next = left.empty() ? highest : cut_of(demands, left);
    if (!(average(next) > average(highest))) {
      break;
    }
    highest = next;
  }
  const auto num_owners = static_cast<std::int64_t>(highest.owners.size());
  return {.size_bytes = (highest.size_bytes + num_owners - 1) / num_owners,
          .ranks = std::move(highest.owners)};
}

}  // namespace dynatrain

#include "dynatrain/plan/world_traffic.hpp"

#include "dynatrain/base/error.hpp"
#include "dynatrain/plan/plan.hpp"

#include <gtest/gtest.h>

#include "plan/small_maps.hpp"
#include <algorithm>
#include <cstdint>
#include <numeric>
#include <random>
#include <utility>
#include <vector>

namespace dynatrain {
namespace {

using testing::cut_columns;
using testing::cut_rows;
using testing::equal_tensors;
using testing::numbered_names;

std::int64_t sum(const std::vector<std::int64_t>& values) {
  return std::accumulate(values.begin(), values.end(), std::int64_t{0});
}

/// The least possible busiest owner by trying all sets of owners: what they alone have, shared.
double busiest_by_all_cuts(const std::vector<Demand>& demands, unsigned num_owners) {
  double busiest = 0;
  for (unsigned set = 1; set < (1U << num_owners); ++set) {
    double size_bytes = 0;
    for (const Demand& demand : demands) {
      const bool is_theirs = std::ranges::all_of(demand.owners, [set](int owner) {
        return ((set >> static_cast<unsigned>(owner)) & 1U) != 0;
      });
      size_bytes += is_theirs ? static_cast<double>(demand.size_bytes) : 0;
    }
    busiest = std::max(busiest, size_bytes / __builtin_popcount(set));
  }
  return busiest;
}

// The certificate is what users are told of a plan: one that is too high calls a plan best that is
// not, one that is too low calls a good plan bad.
TEST(LeastEgress, IsTheHighestAverageOfAllSetsOfOwners) {
  std::mt19937 random(7);  // NOLINT: the same instances everywhere
  for (int trial = 0; trial < 2000; ++trial) {
    const auto num_owners = static_cast<unsigned>(1 + random() % 7);
    std::vector<Demand> demands(1 + random() % 8);
    for (Demand& demand : demands) {
      for (unsigned owner = 0; owner < num_owners; ++owner) {
        if (random() % 3 == 0) {
          demand.owners.push_back(static_cast<int>(owner));
        }
      }
      if (demand.owners.empty()) {
        demand.owners.push_back(0);
      }
      demand.size_bytes = static_cast<std::int64_t>(random() % 1000);
    }
    const EgressBound bound = least_egress(demands);
    const double expected = busiest_by_all_cuts(demands, num_owners);
    EXPECT_GE(static_cast<double>(bound.size_bytes), expected) << "trial " << trial;
    EXPECT_LT(static_cast<double>(bound.size_bytes), expected + 1) << "trial " << trial;
    // The ranks that are named prove it: what they alone have is as much for each.
    double theirs = 0;
    for (const Demand& demand : demands) {
      const bool is_theirs = std::ranges::includes(bound.ranks, demand.owners);
      theirs += is_theirs ? static_cast<double>(demand.size_bytes) : 0;
    }
    if (expected > 0) {
      EXPECT_DOUBLE_EQ(theirs / static_cast<double>(bound.ranks.size()), expected);
    }
  }
}

// Petabytes times thousands of ranks do not fit 64 bits, which is where worlds of that size are.
TEST(LeastEgress, HoldsForMoreBytesThanAreCountedOneByOne) {
  const std::int64_t petabytes = std::int64_t{1} << 56U;
  std::vector<int> everyone(10000);
  std::iota(everyone.begin(), everyone.end(), 0);
  const std::vector<Demand> demands{{.owners = {17}, .size_bytes = petabytes},
                                    {.owners = everyone, .size_bytes = petabytes}};
  const EgressBound bound = least_egress(demands);
  EXPECT_EQ(bound.size_bytes, petabytes);
  EXPECT_EQ(bound.ranks, std::vector<int>{17});
}

TEST(LeastEgress, OfNothingIsNothing) {
  EXPECT_EQ(least_egress({}).size_bytes, 0);
  EXPECT_TRUE(least_egress({}).ranks.empty());
}

TEST(LeastEgress, DemandsThatNobodyCanMeetAreRefused) {
  const auto bound = [](Demand demand) { return least_egress(std::vector{std::move(demand)}); };
  EXPECT_THROW((void)bound({.owners = {}, .size_bytes = 5}), LayoutError);
  EXPECT_THROW((void)bound({.owners = {1, 0}, .size_bytes = 5}), LayoutError);
  EXPECT_THROW((void)bound({.owners = {0, 0}, .size_bytes = 5}), LayoutError);
  EXPECT_THROW((void)bound({.owners = {0}, .size_bytes = -5}), LayoutError);
}

// What crosses is what receivers lack, whoever sends it: by each rule, and by the planner's own.
TEST(WorldTraffic, EveryRuleSendsWhatTheReceiversLack) {
  const ShardMap source = equal_tensors(numbered_names(5), {24, 18}, cut_rows(4));
  const ShardMap target = equal_tensors(numbered_names(5), {24, 18}, cut_columns(6));
  std::int64_t lacking = 0;
  for (int rank = 0; rank < 6; ++rank) {
    lacking += make_plan(source, target, rank, {}).traffic.lower_bound_bytes;
  }
  const WorldTraffic traffic = world_traffic(source, target);
  std::int64_t demanded = 0;
  for (const Demand& demand : traffic.demands) {
    demanded += demand.size_bytes;
  }
  EXPECT_GT(lacking, 0);
  EXPECT_EQ(demanded, lacking);
  EXPECT_EQ(sum(traffic.first_owner), lacking);
  EXPECT_EQ(sum(traffic.modulo), lacking);
  EXPECT_EQ(sum(traffic.least_loaded), lacking);
}

// One copy of everything on two ranks, two more ranks that want it: the first owner sends both
// copies, a rule that looks at needers or loads sends one from each.
TEST(WorldTraffic, TheFirstOwnerIsAHotSpotWhereOthersAreNot) {
  const ShardMap source = equal_tensors({"a"}, {8, 4}, make_replicated_sharding({0, 1}));
  const ShardMap target = equal_tensors({"a"}, {8, 4}, make_replicated_sharding({0, 1, 2, 3}));
  const std::int64_t size_bytes = source.tensor(TensorId(0)).size_bytes();
  const WorldTraffic traffic = world_traffic(source, target);
  EXPECT_EQ(traffic.first_owner, (std::vector<std::int64_t>{2 * size_bytes, 0}));
  EXPECT_EQ(traffic.modulo, (std::vector<std::int64_t>{size_bytes, size_bytes}));
  EXPECT_EQ(traffic.least_loaded, (std::vector<std::int64_t>{size_bytes, size_bytes}));
  EXPECT_EQ(least_egress(traffic.demands).size_bytes, size_bytes);
}

}  // namespace
}  // namespace dynatrain

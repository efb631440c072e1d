// Any pair of maps: either the plans of all ranks bring every target element to every rank that
// needs it, once, or a rank names what nobody holds.
#include "dynatrain/plan/plan.hpp"

#include "fuzz/drawn_maps.hpp"
#include "fuzz/target.hpp"
#include "fuzz/tensor_elements.hpp"

namespace dynatrain::fuzz {
namespace {

DecisionRecord drawn_record(Draws& draws) {
  DecisionRecord record;
  for (int rank = 0; rank < kMostRanks && draws.one_in(2); ++rank) {
    record.node_of_rank.push_back(draws.small(0, 2));
  }
  return record;
}

void check_arrivals(const std::pair<ShardMap, ShardMap>& maps, const std::vector<Plan>& plans) {
  const std::vector<std::string> faults = check_plans(maps.first, maps.second, plans);
  expect(faults.empty(), faults.empty() ? "" : faults.front());
  for (const Plan& plan : plans) {
    ElementCounts arrived;
    add_moves(arrived, plan.locals);
    for (const PairList& list : plan.receives) {
      add_moves(arrived, list.moves);
    }
    expect(arrived == needed_by(maps.second, plan.rank), "every needed element arrives once");
  }
}

}  // namespace

std::vector<std::string> seeds() {
  return seeds_of_pairs();
}

}  // namespace dynatrain::fuzz

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace dynatrain;
  fuzz::Draws draws(fuzz::text_of(data, size));
  static_cast<void>(fuzz::is_taken([&] {
    const auto maps = fuzz::drawn_pair(draws);
    const DecisionRecord record = fuzz::drawn_record(draws);
    std::vector<Plan> plans;
    for (int rank = 0; rank < fuzz::kMostRanks; ++rank) {
      const bool has_all = fuzz::holds_all(maps.first, fuzz::needed_by(maps.second, rank));
      if (fuzz::is_taken(
              [&] { plans.push_back(make_plan(maps.first, maps.second, rank, record)); })) {
        fuzz::expect(has_all, "a plan of what nobody holds is refused");
      }
    }
    if (std::ssize(plans) == fuzz::kMostRanks) {
      fuzz::check_arrivals(maps, plans);
    }
  }));
  return 0;
}

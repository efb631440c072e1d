// Plans of any pair of maps under any options: stages carry every byte of a plan once, within the
// budget, and both ends of a pair cut their lists alike.
#include "dynatrain/schedule/schedule.hpp"

#include "fuzz/drawn_maps.hpp"
#include "fuzz/pair_of_schedules.hpp"
#include "fuzz/target.hpp"
#include <algorithm>

namespace dynatrain::fuzz {
namespace {

ScheduleOptions drawn_options(Draws& draws) {
  ScheduleOptions options;
  options.staging_budget_bytes = draws.number(0, 20'000);
  options.direct_threshold_bytes = draws.number(1, 200);
  options.max_direct_per_pair = draws.small(0, 4);
  options.num_stages_to_overlap = draws.small(1, 9);
  options.min_message_bytes = draws.number(1, 255);
  options.with_sums = draws.one_in(2);
  return options;
}

void check_all(const std::pair<ShardMap, ShardMap>& maps, const ScheduleOptions& options) {
  std::vector<Plan> plans;
  int num_stages = 1;
  for (int rank = 0; rank < kMostRanks; ++rank) {
    plans.push_back(make_plan(maps.first, maps.second, rank, {}));
    num_stages = std::max(num_stages, num_stages_wanted(plans.back(), options));
  }
  std::vector<Schedule> all;
  for (const Plan& plan : plans) {
    all.push_back(make_schedule(plan, maps.first, maps.second, num_stages, options));
    expect(all.back().staging_peak_bytes <= options.staging_budget_bytes, "the budget is kept");
  }
  for (const Schedule& src : all) {
    for (const Schedule& dst : all) {
      check_pair(src, dst, plans[static_cast<std::size_t>(src.rank)]);
    }
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
    const ScheduleOptions options = fuzz::drawn_options(draws);
    fuzz::check_all(fuzz::drawn_pair(draws), options);
  }));
  return 0;
}

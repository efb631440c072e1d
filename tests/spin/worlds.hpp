#pragma once

#include "dynatrain/schedule/schedule.hpp"
#include "dynatrain/schedule/stream_plan.hpp"

#include <string_view>
#include <vector>

/// Small switches, planned and scheduled as large ones are.
namespace dynatrain::testing {

/// What all ranks of one switch do.
struct World {
  int num_ranks = 0;
  ShardMap source;
  ShardMap target;
  ScheduleOptions options;
  std::vector<Plan> plans;          ///< by rank
  std::vector<Schedule> schedules;  ///< by rank
  std::vector<Storages> held;       ///< of the source by rank, one for each tensor
  std::vector<Storages> needed;     ///< of the target, the same way
  std::vector<StreamPlan> streams;  ///< by rank
};

/// Errors   std::invalid_argument where there is no world of that name; it names those there are.
[[nodiscard]] World make_world(std::string_view name, int num_stages);

}  // namespace dynatrain::testing

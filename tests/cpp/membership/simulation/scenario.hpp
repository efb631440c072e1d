#pragma once

#include "dynatrain/membership/deadlines.hpp"
#include "dynatrain/membership/policy.hpp"

#include <cstdint>
#include <string>
#include <vector>

namespace dynatrain::membership::simulation {

enum class IncidentKind : std::uint8_t {
  kJoin,
  kCrash,
  kPause,             ///< a process stands still, as under SIGSTOP
  kCloseConnection,   ///< of a process that lives
  kPartition,         ///< who & amount: the bits say who is on the other side
  kCrashCoordinator,  ///< behind the amount-th action of its next list
  kResize,
  kDrain,
  kLeave,
  kStepFailure,
  kPrepareFailure,
  kSwitchFailure,
  kSlowSwitch,
  kSlowPrepare,
};

/// Something that happens to a run. `who` is taken modulo the processes that live at that moment.
struct Incident {
  std::int64_t at_ms = 0;
  IncidentKind kind = IncidentKind::kJoin;
  std::uint64_t who = 0;
  std::int64_t duration_ms = 0;
  std::int64_t amount = 0;
};

/// A run on paper. Whatever is not said here is drawn from the seed while it runs.
struct Scenario {
  std::uint64_t seed = 0;
  int num_workers = 1;
  std::vector<LayoutChoice> layouts;
  int loss_percent = 0;
  int double_percent = 0;
  int late_percent = 0;
  bool is_replicated = true;   ///< one holder of a version holds all of it
  bool encodes = false;        ///< messages travel as text
  int policy_percent = 0;      ///< of the processes, whose scripts have a policy
  std::int64_t finish_at = 0;  ///< the job's last version, 0 for none
  bool has_checkpoints = false;
  std::string refused;        ///< a layout that no state can take, empty for none
  std::int64_t begin_at = 0;  ///< a checkpoint's that is there before the job, 0 for none
  std::vector<Incident> incidents;
  std::int64_t quiet_at_ms = 0;  ///< nothing goes wrong from here on
};

[[nodiscard]] Scenario draw_scenario(std::uint64_t seed);
/// The same without faults: a number of joins, resizes and leaves on a good network.
[[nodiscard]] Scenario draw_calm_scenario(std::uint64_t seed);
[[nodiscard]] std::string to_text(const Scenario& scenario);
[[nodiscard]] Deadlines simulated_deadlines();

}  // namespace dynatrain::membership::simulation

#include "dynatrain/membership/status.hpp"

#include "membership/coordinator_state.hpp"
#include <algorithm>
#include <array>

namespace dynatrain::membership {
namespace {

constexpr std::array<std::string_view, 7> kPhaseNames{
    "steady", "preparing", "promising", "committing", "halting", "recovering", "finished"};
constexpr std::array<std::string_view, 3> kRoleNames{"member", "spare", "leaving"};

Phase phase_of(const CoordinatorState& state) {
  if (state.durable.is_finished) {
    return Phase::kFinished;
  }
  if (state.attempt) {
    switch (state.attempt->phase) {
      case AttemptPhase::kPreparing:
        return Phase::kPreparing;
      case AttemptPhase::kPromising:
        return Phase::kPromising;
      case AttemptPhase::kVoting:
        return Phase::kCommitting;
    }
  }
  if (state.recovery) {
    return lacks_reports(state) ? Phase::kHalting : Phase::kRecovering;
  }
  return Phase::kSteady;
}

struct Wait {
  std::string why;
  std::int64_t until_ms = 0;
};

std::string attempt_text(const Attempt& attempt) {
  std::string number = "attempt " + std::to_string(attempt.number());
  const std::string waiting = std::to_string(attempt.num_waiting) + " of " +
                              std::to_string(attempt.participants.size()) + " members";
  switch (attempt.phase) {
    case AttemptPhase::kPreparing:
      return number + " waits for " + waiting + " to be prepared";
    case AttemptPhase::kPromising:
      return number + " waits for " + waiting + " to answer the proposal of step " +
             std::to_string(attempt.step);
    case AttemptPhase::kVoting:
      return number + " waits for " + waiting + " to switch at step " +
             std::to_string(attempt.step) + " and vote";
  }
  return number;
}

Wait wait_of(const CoordinatorState& state) {
  if (state.durable.is_finished) {
    return {"the job has finished", 0};
  }
  if (state.attempt) {
    return {attempt_text(*state.attempt), state.attempt->deadline_ms};
  }
  if (state.is_orphaned && lacks_reports(state)) {
    return {std::to_string(state.num_unreported) + " members look for checkpoints", 0};
  }
  if (state.recovery && lacks_reports(state)) {
    return {"members of the halted world have not reported yet",
            state.recovery->report_deadline_ms};
  }
  if (state.is_undecided && state.back_off_until_ms > state.now_ms) {
    return {"pause after a failed attempt", state.back_off_until_ms};
  }
  if (state.is_undecided && state.consultation && !state.consultation->advice) {
    return {"the policy of a script is asked", state.consultation->deadline_ms};
  }
  if (state.is_undecided && !state.recovery) {
    return {"the next world is chosen once nobody has come, gone or asked for a while",
            state.quiet_until_ms};
  }
  return {state.waits_for, 0};
}

MemberStatus member_status(const CoordinatorState& state, MemberId id, const Live& live) {
  const DurableMember& durable = state.durable.members.at(id);
  MemberStatus status;
  status.id = id;
  status.host = durable.host;
  status.machine = durable.machine;
  status.epoch = live.epoch;
  status.version = live.version;
  const auto rank = state.ranks.find(id);
  if (rank != state.ranks.end()) {
    status.rank = rank->second;
    status.role = Role::kMember;
  }
  if (durable.standing == Standing::kLeaving) {
    status.role = Role::kLeaving;
  }
  return status;
}

}  // namespace

std::string_view phase_name(Phase phase) {
  return kPhaseNames.at(static_cast<std::size_t>(phase));
}

std::string_view role_name(Role role) {
  return kRoleNames.at(static_cast<std::size_t>(role));
}

Status Coordinator::status(std::int64_t now_ms) const {
  const CoordinatorState& state = *state_;
  Status status;
  for (const auto& [id, live] : state.live) {
    status.members.push_back(member_status(state, id, live));
    status.members.back().last_heard_ms = std::max<std::int64_t>(0, now_ms - live.last_heard_ms);
  }
  status.world = state.durable.world;
  status.phase = phase_of(state);
  if (state.attempt) {
    status.attempt = state.attempt->number();
  }
  const Wait wait = wait_of(state);
  status.waits_for = wait.why;
  status.seconds_left =
      static_cast<double>(std::max<std::int64_t>(0, wait.until_ms - now_ms)) / 1e3;
  status.wish = state.durable.wish;
  status.last_failure = state.last_failure;
  status.refused_layouts = refused_layouts(state);
  status.num_stale = state.num_stale;
  status.num_lost = std::ranges::count_if(state.durable.members, [](const auto& entry) {
    return entry.second.standing == Standing::kLost;
  });
  return status;
}

}  // namespace dynatrain::membership

#include "base/clipped.hpp"
#include "membership/coordinator_state.hpp"
#include <algorithm>
#include <functional>
#include <set>
#include <utility>

namespace dynatrain::membership {
namespace {

/// Members that are late with their report are lost.
void lose_late_members(CoordinatorState& state) {
  std::vector<MemberId> late;
  for (const auto& [id, live] : state.live) {
    if (live.is_asked && !live.report) {
      late.push_back(id);
    }
  }
  for (const MemberId id : late) {
    lose(state, id, "no report in time after the world was halted");
  }
}

Holding holding_of(const Live& live, std::int64_t version) {
  if (!live.report) {
    return Holding::kNothing;
  }
  if (live.report->is_clean && live.report->version == version) {
    return Holding::kLive;
  }
  const bool has_snapshot = std::ranges::find(live.report->snapshot_versions, version) !=
                            live.report->snapshot_versions.end();
  return has_snapshot ? Holding::kSnapshot : Holding::kNothing;
}

std::vector<Holding> holdings_of(const CoordinatorState& state, const Description& description) {
  std::vector<Holding> holdings;
  const auto add = [&](MemberId id) {
    const auto found = state.live.find(id);
    holdings.push_back(found == state.live.end()
                           ? Holding::kAbsent
                           : holding_of(found->second, description.target.version));
  };
  const std::set<MemberId> in_source(description.source.members.begin(),
                                     description.source.members.end());
  std::ranges::for_each(description.source.members, add);
  for (const MemberId id : description.target.members) {
    if (!in_source.contains(id)) {
      add(id);
    }
  }
  return holdings;
}

/// Those who keep copies, and have no place in the target.
std::vector<MemberId> former_members_beside(const CoordinatorState& state, const World& target) {
  const std::set<MemberId> in_target(target.members.begin(), target.members.end());
  std::vector<MemberId> beside = former_members(state);
  std::erase_if(beside,
                [&](MemberId id) { return in_target.contains(id) || !state.live.at(id).report; });
  return beside;
}

bool is_refused(CoordinatorState& state, const PolicyChoice& choice) {
  return tried(state, choice.layout, choice.members).num_refused >= state.options.max_refused;
}

/// The next world, where every version has failed in one layout: in another one that may be the
/// first version's. What is wrong with a target fails at each of them as well.
PolicyChoice choose_for(CoordinatorState& state, std::size_t num_versions) {
  PolicyChoice choice = choose_world(state);
  if (choice.members.empty() || num_versions == 0 ||
      open_recovery(state).candidate < num_versions) {
    return choice;
  }
  Tried& failed = tried(state, choice.layout, choice.members);
  failed.num_refused = state.options.max_refused;
  failed.why = state.last_failure;
  choice = choose_world(state);
  if (!choice.members.empty() && !is_refused(state, choice)) {
    try_all_versions(state);
  }
  return choice;
}

void wait_for_versions(CoordinatorState& state, std::size_t num_versions) {
  state.search_again_ms = state.now_ms + state.back_off_ms;
  if (state.is_orphaned) {
    state.back_off_ms = std::min(2 * state.back_off_ms, state.options.deadlines.back_off_cap_ms);
  }
  state.tried.clear();
  state.is_state_gone = num_versions == 0 || !open_recovery(state).may_be_the_target;
  state.waits_for =
      num_versions == 0 && state.is_orphaned
          ? "all members of the halted world are lost, and nobody finds a checkpoint"
      : num_versions == 0
          ? "no member of the halted world holds a whole version; the job needs a checkpoint"
          : "none of the " + std::to_string(num_versions) +
                " reported versions can be put together; the job needs a checkpoint";
  if (num_versions > 0) {
    state.waits_for = clipped(state.waits_for + ": " + state.last_failure, kMaxWhyBytes);
  }
  open_recovery(state).gone_because = state.is_state_gone ? state.waits_for : std::string{};
}

void begin_recovery_attempt(CoordinatorState& state) {
  const std::vector<std::int64_t> versions = candidates(state);
  state.is_state_gone = false;
  PolicyChoice choice = choose_for(state, versions.size());
  if (open_recovery(state).candidate >= versions.size()) {
    wait_for_versions(state, versions.size());
    return;
  }
  if (choice.members.empty() && !refused_layouts(state).empty()) {
    state.tried.clear();  // nothing trains: what was refused may do at another time
    choice = choose_world(state);
  }
  if (const std::string& gone = open_recovery(state).gone_because;
      choice.members.empty() && !gone.empty()) {
    state.is_state_gone = true;
    state.waits_for = gone;
    return;
  }
  if (choice.members.empty()) {
    state.waits_for = choice.why.empty() ? "the policy chose no world" : choice.why;
    return;
  }
  Description description;
  description.kind = ChangeKind::kRecovery;
  description.source = state.durable.world;
  description.target = World{state.durable.world.epoch + 1,
                             std::move(choice.layout),
                             std::move(choice.members),
                             versions[open_recovery(state).candidate]};
  description.holdings = holdings_of(state, description);
  description.former = former_members_beside(state, description.target);
  begin_attempt(state, std::move(description));
}

/// Whether somebody is still to say what there is to go on from. Loses those that are late.
bool lacks_words(CoordinatorState& state) {
  if (state.num_unknown > 0) {
    return true;  // one of them may keep copies that are needed
  }
  if (state.is_orphaned) {  // nothing stands that could wait for less than all who come
    return lacks_reports(state) || state.now_ms < state.quiet_until_ms;
  }
  if (lacks_reports(state) && state.now_ms >= open_recovery(state).report_deadline_ms &&
      !is_cut_off(state)) {
    lose_late_members(state);  // where nobody of the world is left then, others are asked
  }
  return lacks_reports(state);
}

}  // namespace

std::vector<std::int64_t> candidates(const CoordinatorState& state) {
  using NewestFirst = std::set<std::int64_t, std::greater<>>;
  NewestFirst clean;
  NewestFirst snapshots;
  for (const auto& [id, live] : state.live) {
    if (live.report && live.report->is_clean) {
      clean.insert(live.report->version);
    }
    if (live.report) {
      snapshots.insert(live.report->snapshot_versions.begin(),
                       live.report->snapshot_versions.end());
    }
  }
  std::vector<std::int64_t> versions(clean.begin(), clean.end());
  std::ranges::copy_if(snapshots, std::back_inserter(versions), [&](std::int64_t version) {
    return !clean.contains(version);
  });
  return versions;
}

void try_all_versions(CoordinatorState& state) {
  if (state.recovery) {
    state.recovery->candidate = 0;
    state.recovery->may_be_the_target = false;
  }
}

void halt_world(CoordinatorState& state, const std::string& why) {
  if (state.attempt) {
    abort_attempt(state, why);
  }
  const std::int64_t epoch = state.durable.world.epoch;
  if (!state.durable.is_halted) {
    persist(state, WorldHalted{epoch, clipped(why, kMaxWhyBytes)});
  }
  state.recovery = Recovery{.report_deadline_ms = state.now_ms + state.options.deadlines.report_ms};
  // A halt is no failure of an attempt: the way out of it begins without a pause.
  state.is_undecided = true;
  state.back_off_until_ms = state.now_ms;
  state.back_off_ms = state.options.deadlines.back_off_ms;
  if (alive_in_world(state).empty()) {
    begin_search(state);
    return;
  }
  state.num_unreported = 0;
  for (auto& [id, live] : state.live) {
    live.report.reset();
    live.is_asked = false;
    if (is_in_world(state, id) || is_former_member(state, id, live)) {
      expect_report(state, live);
      send(state, id, Halt{epoch, state.durable.halted_why});
    }
  }
}

void expect_report(CoordinatorState& state, Live& live) {
  live.report.reset();
  live.is_asked = true;
  live.keep_until_ms = std::max(live.keep_until_ms, state.now_ms + state.options.deadlines.keep_ms);
  ++state.num_unreported;
}

void on_step_failed(CoordinatorState& state, const StepFailed& message) {
  if (message.epoch != state.durable.world.epoch || !is_in_world(state, message.id)) {
    ++state.num_stale;
    return;
  }
  if (state.durable.is_finished) {
    lose(state,
         message.id,
         "the job has finished, as others have done all of their steps, while a step of this one "
         "failed");
    return;
  }
  if (state.recovery) {
    ++state.num_stale;
    return;
  }
  std::string suspects;
  for (const MemberId id : message.suspects) {
    suspects += (suspects.empty() ? ", suspects " : " ") + std::to_string(id.value);
  }
  halt_world(state, "a step of " + name_of(state, message.id) + " failed" + suspects);
}

void on_report(CoordinatorState& state, const Report& message) {
  Live& live = state.live.at(message.id);
  if (!live.is_asked || message.epoch != state.durable.world.epoch || live.report) {
    ++state.num_stale;
    return;
  }
  live.report = message;
  --state.num_unreported;
  live.version = message.version;
}

void consider_recovery(CoordinatorState& state) {
  if (!state.recovery || state.attempt || state.durable.is_finished || lacks_words(state)) {
    return;
  }
  if (state.is_orphaned && state.durable.world.epoch == 0 && candidates(state).empty()) {
    state.recovery.reset();  // who had found one is gone: nothing has begun yet
    return;
  }
  if (!state.is_undecided || state.now_ms < state.back_off_until_ms || !is_advised(state)) {
    return;
  }
  state.is_undecided = false;
  begin_recovery_attempt(state);
}

}  // namespace dynatrain::membership

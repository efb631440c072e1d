#include "base/clipped.hpp"
#include "membership/coordinator_state.hpp"
#include <algorithm>
#include <sstream>
#include <string>

namespace dynatrain::membership {
namespace {

/// When a link is back, TCP says again what was lost after as long as the link was away, and after
/// two minutes at most.
constexpr std::int64_t kLongestRetransmissionMs = 120'000;

void release(CoordinatorState& state, MemberId id) {
  persist(state, MemberReleased{id});
  forget(state, id);
  send(state, id, Released{});
}

/// The first line of settings that another text of them lacks; empty for none.
std::string first_other_line(const std::string& settings, const std::string& other) {
  std::istringstream lines(settings);
  const std::string others = "\n" + other + "\n";
  for (std::string line; std::getline(lines, line);) {
    if (others.find("\n" + line + "\n") == std::string::npos) {
      return line;
    }
  }
  return {};
}

/// Why a process cannot join those that are there; empty where it can. It would be asked into world
/// after world, of which each is refused.
std::string other_settings(const CoordinatorState& state, const std::string& settings) {
  if (state.live.empty()) {
    return {};
  }
  const std::string& present = state.durable.members.at(state.live.begin()->first).settings;
  if (present == settings) {
    return {};
  }
  return "it was given other arguments of join than the members that are there: \"" +
         clipped(first_other_line(settings, present), kMaxWhyBytes / 4) + "\", where they have \"" +
         clipped(first_other_line(present, settings), kMaxWhyBytes / 4) + "\"";
}

}  // namespace

void note_change(CoordinatorState& state) {
  const Deadlines& deadlines = state.options.deadlines;
  if (!state.is_undecided) {
    state.is_undecided = true;
    state.first_change_ms = state.now_ms;
  }
  // Joining one after another must not put a change off for ever.
  state.quiet_until_ms =
      std::min(state.now_ms + deadlines.settle_ms, state.first_change_ms + 4 * deadlines.settle_ms);
  state.back_off_ms = deadlines.back_off_ms;
  state.back_off_until_ms = state.now_ms;
  state.consultation.reset();
  state.tried.clear();
  try_all_versions(state);
}

std::string name_of(const CoordinatorState& state, MemberId id) {
  std::string name = "member " + std::to_string(id.value);
  const auto rank = state.ranks.find(id);
  const auto known = state.durable.members.find(id);
  if (rank != state.ranks.end() && known != state.durable.members.end()) {
    name += " (rank " + std::to_string(rank->second) + " of " + state.durable.world.layout + ", " +
            known->second.host + ")";
  }
  return name;
}

bool is_in_world(const CoordinatorState& state, MemberId id) {
  return state.ranks.contains(id);
}

void note_world(CoordinatorState& state) {
  state.ranks.clear();
  for (const MemberId id : state.durable.world.members) {
    state.ranks.emplace(id, static_cast<int>(state.ranks.size()));
  }
}

std::vector<MemberId> alive_in_world(const CoordinatorState& state) {
  std::vector<MemberId> alive;
  std::ranges::copy_if(state.durable.world.members, std::back_inserter(alive), [&](MemberId id) {
    return state.live.contains(id);
  });
  return alive;
}

bool is_former_member(const CoordinatorState& state, MemberId id, const Live& live) {
  return live.copies != 0 && live.copies >= state.copies_since && !is_in_world(state, id);
}

std::vector<MemberId> former_members(const CoordinatorState& state) {
  std::vector<MemberId> found;
  for (const auto& [id, live] : state.live) {
    if (is_former_member(state, id, live)) {
      found.push_back(id);
    }
  }
  return found;
}

std::string contradiction(const CoordinatorState& state, const FromWorker& message) {
  const MemberId id = std::visit([](const auto& one) { return one.id; }, message);
  const std::string name = "member " + std::to_string(id.value);
  const bool is_known = state.durable.members.contains(id);
  // Whoever was not welcome yet says nothing but these.
  if (!is_known && !std::holds_alternative<Join>(message) &&
      !std::holds_alternative<Gone>(message)) {
    return name + " was welcome before, and is not in the ledger";
  }
  if (const auto* const beat = std::get_if<Heartbeat>(&message)) {
    if (beat->epoch > state.durable.world.epoch) {
      return name + " is in epoch " + std::to_string(beat->epoch) + ", and the ledger ends with " +
             std::to_string(state.durable.world.epoch);
    }
    const std::int64_t attempt = std::max(beat->attempt, beat->closed_attempt);
    if (attempt > state.durable.last_attempt) {
      return name + " knows of attempt " + std::to_string(attempt) + ", and the ledger ends with " +
             std::to_string(state.durable.last_attempt);
    }
  }
  return {};
}

bool turn_away(CoordinatorState& state, MemberId id) {
  const auto found = state.durable.members.find(id);
  if (found == state.durable.members.end()) {
    ++state.num_stale;
    send(state, id, Refused{"the coordinator does not know this member"});
    return true;
  }
  if (found->second.standing == Standing::kLost) {
    send(state, id, Lost{found->second.why});
    return true;
  }
  if (found->second.standing == Standing::kReleased) {
    send(state, id, Released{});
    return true;
  }
  return false;
}

void on_join(CoordinatorState& state, const Join& message) {
  if (state.durable.members.contains(message.id)) {
    if (!turn_away(state, message.id)) {
      state.live.at(message.id).last_heard_ms = state.now_ms;
      send(state, message.id, Welcome{});
    }
    return;
  }
  if (message.id.value == 0 || message.host.empty() || message.host.size() > kMaxHostBytes) {
    send(state,
         message.id,
         Refused{"a member has an id other than 0, and a host's name of 1 to 255 bytes"});
    return;
  }
  if (state.durable.is_finished) {
    send(state, message.id, Refused{.why = "the job has finished", .is_over = true});
    return;
  }
  if (const std::string other = other_settings(state, message.settings); !other.empty()) {
    send(state, message.id, Refused{other});
    return;
  }
  persist(state, MemberJoined{message.id, message.host, message.settings, message.machine});
  Live live{.last_heard_ms = state.now_ms};
  live.search_deadline_ms = state.now_ms + state.options.deadlines.report_ms;
  state.live.emplace(message.id, std::move(live));
  send(state, message.id, Welcome{});
  if (state.is_orphaned) {
    expect_report(state, state.live.at(message.id));
    ask_for_versions(state, message.id);
  }
  note_change(state);
}

void on_leave(CoordinatorState& state, MemberId id) {
  const auto found = state.durable.members.find(id);
  if (found == state.durable.members.end() || found->second.standing != Standing::kActive) {
    return;
  }
  persist(state, MemberLeaves{id});
  state.leaving.insert(id);
  note_change(state);
}

void on_resize(CoordinatorState& state, const Resize& event) {
  if (event.layout.size() > kMaxLayoutBytes) {
    ++state.num_stale;
    return;
  }
  if (event.layout != state.durable.wish) {
    persist(state, LayoutWished{event.layout});
  } else if (std::ranges::count(refused_layouts(state), event.layout, &RefusedLayout::layout) ==
             0) {
    return;  // else it is to be tried once more
  }
  note_change(state);
}

void on_gone(CoordinatorState& state, const Gone& message) {
  if (message.is_finished && is_in_world(state, message.id) && !state.durable.is_finished &&
      !state.recovery) {
    if (state.attempt) {
      abort_attempt(state, "the job has finished");
    }
    persist(state, JobFinished{state.durable.world.epoch});
  }
  if (state.durable.is_finished) {
    // Its peers do their last step or have done it: nobody is to be halted for its sake.
    release(state, message.id);
    return;
  }
  const bool takes_part = state.attempt && state.attempt->participants.contains(message.id);
  if (state.leaving.contains(message.id) && !takes_part && !is_in_world(state, message.id)) {
    release(state, message.id);  // it has stayed for its copies, up to its grace
    return;
  }
  lose(state, message.id, "it has ended");
}

void lose(CoordinatorState& state, MemberId id, const std::string& why) {
  const bool was_in_world = is_in_world(state, id);
  const bool took_part = state.attempt && state.attempt->participants.contains(id);
  persist(state, MemberLost{id, clipped(why, kMaxWhyBytes)});
  forget(state, id);
  send(state, id, Lost{clipped(why, kMaxWhyBytes)});
  if (took_part) {
    abort_attempt(state, "member " + std::to_string(id.value) + " was lost: " + why);
  }
  note_change(state);
  if (was_in_world && !state.durable.is_finished && !state.recovery) {
    halt_world(state, name_of(state, id) + " was lost: " + why);
  } else if (was_in_world && !state.durable.is_finished && alive_in_world(state).empty()) {
    begin_search(state);
  }
}

void forget(CoordinatorState& state, MemberId id) {
  if (const Live& live = state.live.at(id); live.is_asked && !live.report) {
    --state.num_unreported;
  }
  state.num_unknown -= state.live.at(id).is_known ? 0U : 1U;
  state.live.erase(id);
  state.leaving.erase(id);
}

bool is_cut_off(const CoordinatorState& state) {
  return state.last_heard_ms + state.options.deadlines.lost_after_ms <= state.now_ms;
}

void note_heard(CoordinatorState& state) {
  if (is_cut_off(state) && !state.live.empty()) {
    const std::int64_t silence_ms = state.now_ms - state.last_heard_ms;
    state.patient_until_ms = state.now_ms + std::min(silence_ms, kLongestRetransmissionMs) +
                             state.options.deadlines.lost_after_ms;
    if (state.recovery) {
      state.recovery->report_deadline_ms =
          state.patient_until_ms + state.options.deadlines.report_ms;
    }
  }
  state.last_heard_ms = state.now_ms;
}

void lose_silent_members(CoordinatorState& state) {
  if (state.now_ms < state.patient_until_ms) {
    return;
  }
  const std::int64_t lost_after_ms = state.options.deadlines.lost_after_ms;
  std::vector<MemberId> silent;
  for (const auto& [id, live] : state.live) {
    // Up to the last word of anybody: where nobody is heard, nobody's silence tells anything.
    if (live.last_heard_ms + lost_after_ms <= state.last_heard_ms) {
      silent.push_back(id);
    }
  }
  for (const MemberId id : silent) {
    lose(state, id, "no heartbeat for " + std::to_string(lost_after_ms) + " ms");
  }
}

void release_those_who_leave(CoordinatorState& state) {
  if (state.durable.is_finished) {
    for (const auto& [id, live] : state.live) {
      state.leaving.insert(id);
    }
  }
  std::vector<MemberId> released;
  for (const MemberId id : state.leaving) {
    const bool takes_part = state.attempt && state.attempt->participants.contains(id);
    const Live& live = state.live.at(id);
    const bool may_be_needed = !live.is_known || is_former_member(state, id, live);
    const bool stays =
        may_be_needed && !state.durable.is_finished && state.now_ms < live.keep_until_ms;
    if (!takes_part && !stays && !is_in_world(state, id)) {
      released.push_back(id);
    }
  }
  for (const MemberId id : released) {
    release(state, id);
  }
}

}  // namespace dynatrain::membership

#include "base/clipped.hpp"
#include "membership/coordinator_state.hpp"
#include <algorithm>
#include <utility>

namespace dynatrain::membership {
namespace {

/// The participant that an answer to the open attempt comes from, or null when it comes too late.
Participant* participant_of(CoordinatorState& state, MemberId id, std::int64_t number) {
  if (state.attempt && state.attempt->number() == number) {
    const auto found = open_attempt(state).participants.find(id);
    if (found != open_attempt(state).participants.end()) {
      return &found->second;
    }
  }
  ++state.num_stale;
  return nullptr;
}

Tried& tried_by(CoordinatorState& state, const Attempt& attempt) {
  return tried(state, attempt.description.target.layout, attempt.description.target.members);
}

/// Members cannot take the target of the open attempt.
void note_refusal(CoordinatorState& state) {
  const int num_refused = ++tried_by(state, open_attempt(state)).num_refused;
  if (state.recovery && num_refused == state.options.max_refused) {
    try_all_versions(state);  // of the next layout
  }
}

void tell_all(CoordinatorState& state, const FromCoordinator& message) {
  for (const auto& [id, participant] : open_attempt(state).participants) {
    if (state.live.contains(id)) {
      send(state, id, message);
    }
  }
}

std::map<MemberId, Participant> participants_of(const CoordinatorState& state,
                                                const Description& description) {
  std::map<MemberId, Participant> participants;
  for (const MemberId id : description.source.members) {
    if (state.live.contains(id)) {
      participants[id].is_source = true;
    }
  }
  int rank = 0;
  for (const MemberId id : description.target.members) {
    participants[id].target_rank = rank;
    ++rank;
  }
  for (const MemberId id : description.former) {
    participants[id].target_rank = -1;
  }
  return participants;
}

void go(CoordinatorState& state, std::int64_t step) {
  Attempt& attempt = open_attempt(state);
  attempt.phase = AttemptPhase::kVoting;
  attempt.step = step;
  attempt.num_waiting = attempt.participants.size();
  attempt.deadline_ms = state.now_ms + state.options.deadlines.vote_ms;
  tell_all(state, Go{attempt.number(), attempt.proposal, step});
}

void propose(CoordinatorState& state) {
  Attempt& attempt = open_attempt(state);
  attempt.phase = AttemptPhase::kPromising;
  ++attempt.proposal;
  attempt.deadline_ms = state.now_ms + state.options.deadlines.promise_ms;
  attempt.num_waiting = 0;
  std::int64_t newest = 0;
  for (auto& [id, participant] : attempt.participants) {
    participant.heard = Stage::kPrepared;
    participant.has_refused = false;
    if (participant.is_source) {
      ++attempt.num_waiting;
      newest = std::max(newest, state.live.at(id).version);
    }
  }
  attempt.step = newest + attempt.margin;
  for (const auto& [id, participant] : attempt.participants) {
    if (participant.is_source) {
      send(state, id, Propose{attempt.number(), attempt.proposal, attempt.step});
    }
  }
}

void begin_switch(CoordinatorState& state) {
  const Description& description = open_attempt(state).description;
  if (open_attempt(state).is_recovery()) {
    go(state, description.target.version);
  } else if (description.source.members.empty()) {
    go(state, state.options.first_version);
  } else {
    propose(state);
  }
}

/// Who has taken part brings its copies into the new world. After a recovery no others are of use:
/// they may be of steps that were undone.
void carry_copies(CoordinatorState& state, const Attempt& attempt) {
  const std::int64_t epoch = attempt.description.target.epoch;
  for (const auto& [id, participant] : attempt.participants) {
    Live& live = state.live.at(id);
    live.copies = live.copies == 0 ? 0 : epoch;
    live.keep_until_ms = state.now_ms + state.options.deadlines.keep_ms;
  }
  if (attempt.is_recovery()) {
    state.copies_since = epoch;
  }
}

void commit(CoordinatorState& state) {
  const Attempt attempt = open_attempt(state);
  World world = attempt.description.target;
  world.version = attempt.step;
  persist(state, AttemptCommitted{attempt.number(), std::move(world)});
  tell_all(state, Decision{.attempt = attempt.number(), .is_commit = true, .why = {}});
  state.attempt.reset();
  state.recovery.reset();
  state.is_orphaned = false;
  state.num_unreported = 0;
  for (auto& [id, live] : state.live) {
    live.report.reset();  // of the world before
    live.is_asked = false;
  }
  carry_copies(state, attempt);
  note_world(state);
  state.last_failure.clear();
  note_change(state);
}

}  // namespace

Prepare prepare_for(const Attempt& attempt, const Participant& participant) {
  return Prepare{attempt.number(),
                 attempt.description.kind,
                 attempt.description.source.epoch,
                 participant.is_source,
                 attempt.description.target.epoch,
                 participant.target_rank};
}

void begin_attempt(CoordinatorState& state, Description description) {
  Attempt attempt;
  description.attempt = state.durable.last_attempt + 1;
  attempt.description = std::move(description);
  attempt.participants = participants_of(state, attempt.description);
  attempt.num_waiting = attempt.participants.size();
  attempt.margin = state.options.step_margin;
  attempt.deadline_ms = state.now_ms + state.options.deadlines.prepare_ms;
  persist(state, AttemptBegun{attempt.number()});
  state.out.emplace_back(Publish{attempt.description});
  for (const auto& [id, participant] : attempt.participants) {
    send(state, id, prepare_for(attempt, participant));
  }
  state.attempt = std::move(attempt);
}

void on_prepared(CoordinatorState& state, const Prepared& message) {
  Participant* const participant = participant_of(state, message.id, message.attempt);
  if (participant == nullptr) {
    return;
  }
  std::int64_t& version = state.live.at(message.id).version;
  version = std::max(version, message.version);
  if (participant->heard >= Stage::kPrepared) {
    ++state.num_stale;
    return;
  }
  participant->heard = Stage::kPrepared;
  if (--open_attempt(state).num_waiting == 0) {
    begin_switch(state);
  }
}

void on_prepare_failed(CoordinatorState& state, const PrepareFailed& message) {
  const Participant* const participant = participant_of(state, message.id, message.attempt);
  if (participant == nullptr) {
    return;
  }
  if (participant->heard >= Stage::kPrepared) {
    ++state.num_stale;
    return;
  }
  const bool is_recovery = open_attempt(state).is_recovery();
  const bool is_uncovered = message.is_uncovered && is_recovery;
  if (message.is_refusal && is_recovery && state.recovery) {
    state.recovery->may_be_the_target = true;
  }
  if (message.is_refusal && is_recovery && !is_uncovered) {
    note_refusal(state);  // its members stand still as well
  }
  abort_attempt(state,
                "member " + std::to_string(message.id.value) + " cannot prepare: " + message.why);
  if (is_uncovered && state.recovery) {
    // Another version is another question: there is nothing to wait for.
    ++state.recovery->candidate;
    state.back_off_until_ms = state.now_ms;
    state.back_off_ms = state.options.deadlines.back_off_ms;
  }
}

void on_promise(CoordinatorState& state, const Promise& message) {
  Participant* const participant = participant_of(state, message.id, message.attempt);
  if (participant == nullptr) {
    return;
  }
  std::int64_t& version = state.live.at(message.id).version;
  version = std::max(version, message.version);
  Attempt& attempt = open_attempt(state);
  const bool is_awaited = attempt.phase == AttemptPhase::kPromising && participant->is_source &&
                          message.proposal == attempt.proposal &&
                          participant->heard < Stage::kPromised && !participant->has_refused;
  if (!is_awaited) {
    ++state.num_stale;
    return;
  }
  if (message.is_yes) {
    participant->heard = Stage::kPromised;
    if (--attempt.num_waiting == 0) {
      go(state, attempt.step);
    }
    return;
  }
  participant->has_refused = true;
  if (attempt.proposal >= state.options.max_proposals) {
    abort_attempt(
        state,
        std::to_string(attempt.proposal) + " proposals came too late for the steps of the members");
    return;
  }
  attempt.margin *= 2;
  propose(state);
}

void on_vote(CoordinatorState& state, const Vote& message) {
  Participant* const participant = participant_of(state, message.id, message.attempt);
  if (participant == nullptr) {
    return;
  }
  // A no is heard in every phase: a member may give up at any time before it has voted yes.
  if (!message.is_yes) {
    if (message.is_refusal) {
      note_refusal(state);
    }
    abort_attempt(state,
                  "member " + std::to_string(message.id.value) + " voted no: " + message.why);
    return;
  }
  Attempt& attempt = open_attempt(state);
  if (attempt.phase != AttemptPhase::kVoting || participant->heard == Stage::kVoted) {
    ++state.num_stale;
    return;
  }
  participant->heard = Stage::kVoted;
  if (--attempt.num_waiting == 0) {
    commit(state);
  }
}

void abort_attempt(CoordinatorState& state, const std::string& why) {
  const std::int64_t number = open_attempt(state).number();
  state.last_failure = clipped(why, kMaxWhyBytes);
  Tried& tried = tried_by(state, open_attempt(state));
  tried.why = state.last_failure;
  if (open_attempt(state).is_prepared_ahead() &&
      open_attempt(state).phase == AttemptPhase::kPreparing) {
    ++tried.num_unprepared;
  }
  persist(state, AttemptAborted{number, state.last_failure});
  tell_all(state, Decision{.attempt = number, .is_commit = false, .why = state.last_failure});
  state.attempt.reset();
  state.is_undecided = true;
  state.back_off_until_ms = state.now_ms + state.back_off_ms;
  state.back_off_ms = std::min(2 * state.back_off_ms, state.options.deadlines.back_off_cap_ms);
}

void check_attempt_deadline(CoordinatorState& state) {
  if (!state.attempt || state.now_ms < state.attempt->deadline_ms) {
    return;
  }
  const char* what = "prepared";
  Stage wanted = Stage::kPrepared;
  if (open_attempt(state).phase == AttemptPhase::kPromising) {
    what = "answered the proposal";
    wanted = Stage::kPromised;
  } else if (open_attempt(state).phase == AttemptPhase::kVoting) {
    what = "voted";
    wanted = Stage::kVoted;
  }
  std::string late;
  for (const auto& [id, participant] : open_attempt(state).participants) {
    const bool was_asked = wanted != Stage::kPromised || participant.is_source;
    if (was_asked && participant.heard < wanted && late.size() < kMaxWhyBytes / 2) {
      late += (late.empty() ? "" : ", ") + std::to_string(id.value);
    }
  }
  abort_attempt(state,
                std::to_string(open_attempt(state).num_waiting) + " members have not " + what +
                    " in time: " + late);
}

}  // namespace dynatrain::membership

#include "membership/coordinator_state.hpp"
#include <algorithm>
#include <utility>

namespace dynatrain::membership {
namespace {

bool has_committed(const CoordinatorState& state, std::int64_t attempt) {
  return state.durable.committed_attempts.contains(attempt);
}

/// The member still waits in an attempt that is over: its decision was lost.
void tell_decision_again(CoordinatorState& state, const Heartbeat& message) {
  const bool is_commit = has_committed(state, message.attempt);
  send(state,
       message.id,
       Decision{message.attempt, is_commit, is_commit ? "" : "the attempt was aborted"});
}

/// What the member has answered, and nobody has heard.
void take_answers(CoordinatorState& state, const Heartbeat& message) {
  if (message.stage >= Stage::kPrepared) {
    const Participant& participant = open_attempt(state).participants.at(message.id);
    if (participant.heard < Stage::kPrepared) {
      on_prepared(state, Prepared{message.id, message.attempt, message.version});
    }
  }
  const Attempt& attempt = open_attempt(state);
  const Participant& participant = attempt.participants.at(message.id);
  if (attempt.phase == AttemptPhase::kPromising && participant.is_source &&
      message.proposal == attempt.proposal && participant.heard < Stage::kPromised) {
    on_promise(state,
               Promise{message.id,
                       message.attempt,
                       message.proposal,
                       message.stage >= Stage::kPromised,
                       message.version});
  } else if (message.stage == Stage::kVoted && participant.heard < Stage::kVoted) {
    on_vote(state, Vote{message.id, message.attempt, true, {}, false});
  }
}

/// What the coordinator has asked, and the member has not heard.
void ask_again(CoordinatorState& state, const Heartbeat& message) {
  const Attempt& attempt = open_attempt(state);
  const Participant& participant = attempt.participants.at(message.id);
  if (message.attempt < attempt.number()) {
    send(state, message.id, prepare_for(attempt, participant));
  } else if (attempt.phase == AttemptPhase::kPromising && participant.is_source &&
             message.proposal < attempt.proposal) {
    send(state, message.id, Propose{attempt.number(), attempt.proposal, attempt.step});
  } else if (attempt.phase == AttemptPhase::kVoting && message.stage < Stage::kAgreed) {
    send(state, message.id, Go{attempt.number(), attempt.proposal, attempt.step});
  }
}

void repair_attempt(CoordinatorState& state, const Heartbeat& message) {
  const std::int64_t decided =
      state.attempt ? state.attempt->number() - 1 : state.durable.last_attempt;
  if (message.attempt != 0 && message.attempt <= decided) {
    tell_decision_again(state, message);
    return;
  }
  if (!state.attempt || !state.attempt->participants.contains(message.id)) {
    return;
  }
  const std::int64_t number = state.attempt->number();
  if (message.closed_attempt >= number) {
    abort_attempt(state, "member " + std::to_string(message.id.value) + " has given up");
    return;
  }
  if (message.attempt == number) {
    take_answers(state, message);
  }
  // What was taken may have ended the attempt, or asked the next question in the same list.
  if (state.attempt && state.attempt->number() == number) {
    ask_again(state, message);
  }
}

/// What the member says of its copies. What was sent before a commit knows less than that.
void note_copies(CoordinatorState& state, const Heartbeat& message) {
  const std::int64_t epoch = state.durable.world.epoch;
  Live& live = state.live.at(message.id);
  if (!std::exchange(live.is_known, true)) {
    --state.num_unknown;
  }
  live.copies = message.copies == 0 ? 0 : std::max(live.copies, message.copies);
  if (message.is_copied && message.epoch == epoch) {
    state.copies_since = epoch + 1;
  }
  if (message.epoch == 0 && message.copies != 0 && message.copies < state.copies_since) {
    send(state, message.id, Forget{state.copies_since});
  }
}

/// The member is asked again for a report that is not there yet, or for the first time where it was
/// not known that it has copies.
void repair_report(CoordinatorState& state, const Heartbeat& message) {
  Live& live = state.live.at(message.id);
  const std::int64_t epoch = state.durable.world.epoch;
  const bool has_place = is_in_world(state, message.id);
  if (!live.is_asked && !state.attempt && is_former_member(state, message.id, live)) {
    halt_world(state, state.durable.halted_why);
    return;
  }
  if (!live.is_asked || live.report) {
    return;
  }
  if (!has_place && message.copies == 0) {
    live.is_asked = false;  // it has let go of its copies, and has nothing to say
    --state.num_unreported;
  } else if (message.epoch == (has_place ? epoch : 0)) {
    send(state, message.id, Halt{epoch, state.durable.halted_why});
  }
}

void repair_halt(CoordinatorState& state, const Heartbeat& message) {
  const std::int64_t epoch = state.durable.world.epoch;
  if (state.is_orphaned) {
    if (!state.live.at(message.id).report) {
      ask_for_versions(state, message.id);
    }
  } else if (state.recovery) {
    repair_report(state, message);
  } else if (epoch != 0 && message.epoch == epoch && is_in_world(state, message.id) &&
             (message.activity == Activity::kBroken || message.activity == Activity::kHalted)) {
    on_step_failed(state, StepFailed{message.id, epoch, {}});
  }
}

/// A member that stands still is told why, where that is not about to change.
void say_why_nothing_goes_on(CoordinatorState& state, const Heartbeat& message) {
  if (!state.recovery && state.durable.world.epoch != 0) {
    return;
  }
  if (const std::string why = stands_because(state); !why.empty()) {
    send(state, message.id, Holds{why, state.is_state_gone && state.recovery.has_value()});
  }
}

}  // namespace

void on_heartbeat(CoordinatorState& state, const Heartbeat& message) {
  Live& live = state.live.at(message.id);
  live.epoch = message.epoch;
  live.version = message.version;
  send(state, message.id, Heard{});
  if (message.is_leaving) {
    on_leave(state, message.id);
  }
  note_copies(state, message);
  repair_attempt(state, message);
  if (state.live.contains(message.id)) {
    repair_halt(state, message);
    say_why_nothing_goes_on(state, message);
  }
}

}  // namespace dynatrain::membership

#include "dynatrain/membership/coordinator.hpp"

#include "dynatrain/base/error.hpp"

#include "base/clipped.hpp"
#include "membership/coordinator_state.hpp"
#include "membership/overloaded.hpp"
#include <type_traits>
#include <utility>

namespace dynatrain::membership {
namespace {

void check_options(const CoordinatorOptions& options) {
  check_deadlines(options.deadlines);
  const auto refuse = [](const std::string& why) {
    throw LayoutError("membership: cannot make a coordinator\n  " + why +
                      "\n  nothing was started\n  mend the options");
  };
  if (!options.policy) {
    refuse("expected a policy, got none (first_that_fits() makes one of a list of layouts)");
  }
  if (options.first_version < 0 || options.step_margin < 1 || options.max_proposals < 1) {
    refuse("first_version=" + std::to_string(options.first_version) +
           " must be at least 0, step_margin=" + std::to_string(options.step_margin) +
           " and max_proposals=" + std::to_string(options.max_proposals) + " at least 1");
  }
  if (options.max_proposals > 30) {
    refuse("max_proposals=" + std::to_string(options.max_proposals) +
           " is above 30: the margin doubles with each");
  }
}

void dispatch(CoordinatorState& state, const FromWorker& message) {
  const MemberId id = std::visit([](const auto& one) { return one.id; }, message);
  if (std::string why = contradiction(state, message); !why.empty()) {
    state.is_over = true;
    state.out = {Abdicate{clipped(std::move(why), kMaxWhyBytes)}};
    return;
  }
  note_heard(state);
  if (const auto* join = std::get_if<Join>(&message)) {
    on_join(state, *join);
    return;
  }
  if (turn_away(state, id)) {
    return;
  }
  state.live.at(id).last_heard_ms = state.now_ms;
  std::visit(Overloaded{
                 [&](const Heartbeat& one) { on_heartbeat(state, one); },
                 [&](const Leave& one) { on_leave(state, one.id); },
                 [&](const Prepared& one) { on_prepared(state, one); },
                 [&](const PrepareFailed& one) { on_prepare_failed(state, one); },
                 [&](const Promise& one) { on_promise(state, one); },
                 [&](const Vote& one) { on_vote(state, one); },
                 [&](const Installed& one) {
                   state.live.at(one.id).epoch = one.epoch;
                   state.live.at(one.id).version = one.version;
                 },
                 [&](const StepFailed& one) { on_step_failed(state, one); },
                 [&](const Report& one) { on_report(state, one); },
                 [&](const Gone& one) { on_gone(state, one); },
                 [](const Join&) {},
             },
             message);
}

void dispatch(CoordinatorState& state, const CoordinatorEvent& event) {
  std::visit(Overloaded{
                 [&](const FromWorker& message) { dispatch(state, message); },
                 [&](const Resize& resize) { on_resize(state, resize); },
                 [&](const Drain& drain) { on_leave(state, drain.id); },
                 [&](const ConnectionClosed& closed) {
                   if (state.live.contains(closed.id)) {
                     lose(state, closed.id, "its connection was closed");
                   }
                 },
                 [&](const Advises& one) { on_advises(state, one.id); },
                 [&](const Advice& advice) { on_advice(state, advice); },
                 [&](const Tick&) {
                   lose_silent_members(state);
                   lose_late_searchers(state);
                   search_again(state);
                   check_attempt_deadline(state);
                 },
             },
             event);
}

/// What a coordinator that was started anew finds half done.
void take_up_the_past(CoordinatorState& state) {
  const DurableState& durable = state.durable;
  if (durable.is_attempt_open && !state.attempt) {
    // Presumed abort: a commit would have been persisted before anybody heard of it.
    persist(state, AttemptAborted{durable.last_attempt, "the coordinator was started anew"});
  }
  if (state.recovery || durable.is_finished) {
    return;
  }
  if (durable.world.epoch == 0) {
    begin_search(state);
    return;
  }
  // A member that is lost halts its world; both records might not have been written.
  const bool lacks_a_member = alive_in_world(state).size() != durable.world.members.size();
  if (durable.is_halted || lacks_a_member) {
    halt_world(state, durable.is_halted ? durable.halted_why : "a member was lost");
  }
}

}  // namespace

void persist(CoordinatorState& state, Record record) {
  add_record(state.durable, record);
  state.out.emplace_back(Persist{std::move(record)});
}

void send(CoordinatorState& state, MemberId to, FromCoordinator message) {
  state.out.emplace_back(Send{to, std::move(message)});
}

Attempt& open_attempt(CoordinatorState& state) {
  DYNATRAIN_CHECK(state.attempt.has_value(), "an answer was taken for an attempt that is not open");
  return *state.attempt;
}

Recovery& open_recovery(CoordinatorState& state) {
  DYNATRAIN_CHECK(state.recovery.has_value(), "a world that is not halted was to be recovered");
  return *state.recovery;
}

std::string stands_because(const CoordinatorState& state) {
  const bool stands =
      !state.attempt && !state.is_undecided && !lacks_reports(state) && !state.durable.is_finished;
  return stands ? state.waits_for : std::string{};
}

Coordinator::Coordinator(CoordinatorOptions options, DurableState durable, std::int64_t now_ms)
    : state_(std::make_unique<CoordinatorState>()) {
  check_options(options);
  state_->options = std::move(options);
  state_->durable = std::move(durable);
  state_->now_ms = now_ms;
  state_->back_off_ms = state_->options.deadlines.back_off_ms;
  for (const auto& [id, member] : state_->durable.members) {
    if (member.standing == Standing::kActive || member.standing == Standing::kLeaving) {
      state_->live.emplace(id,
                           Live{.last_heard_ms = now_ms,
                                .is_known = false,
                                .keep_until_ms = now_ms + state_->options.deadlines.keep_ms});
    }
    if (member.standing == Standing::kLeaving) {
      state_->leaving.insert(id);
    }
  }
  state_->num_unknown = state_->live.size();
  note_world(*state_);
  state_->copies_since = state_->durable.world.epoch;
  state_->quiet_until_ms = now_ms + state_->options.deadlines.settle_ms;
  state_->first_change_ms = now_ms;
  state_->last_heard_ms = now_ms;
}

Coordinator::Coordinator(const Coordinator& other)
    : state_(std::make_unique<CoordinatorState>(*other.state_)) {}

Coordinator& Coordinator::operator=(const Coordinator& other) {
  if (this != &other) {
    state_ = std::make_unique<CoordinatorState>(*other.state_);
  }
  return *this;
}

Coordinator::Coordinator(Coordinator&&) noexcept = default;
Coordinator& Coordinator::operator=(Coordinator&&) noexcept = default;
Coordinator::~Coordinator() = default;

std::vector<CoordinatorAction> Coordinator::handle(std::int64_t now_ms,
                                                   const CoordinatorEvent& event) {
  CoordinatorState& state = *state_;
  state.now_ms = now_ms;
  state.out.clear();
  if (state.is_over) {
    return {};
  }
  if (std::exchange(state.is_new, false)) {
    take_up_the_past(state);
  }
  dispatch(state, event);
  if (state.is_over) {
    return std::exchange(state.out, {});
  }
  release_those_who_leave(state);
  consider_recovery(state);
  consider_change(state);
  return std::exchange(state.out, {});
}

std::string Coordinator::why_not(const std::string& layout, std::int64_t epoch) const {
  const DurableState& durable = state_->durable;
  if (state_->attempt && state_->attempt->description.target.layout == layout) {
    return {};  // it was begun for this wish, or an earlier one, and may still be committed
  }
  if (durable.wish != layout) {
    return durable.wish.empty() ? "the wish was taken back"
                                : "'" + durable.wish + "' was wished for since";
  }
  if (durable.world.layout == layout && durable.world.epoch == epoch && !state_->attempt &&
      !state_->recovery) {
    return "the job is in it already";
  }
  for (const RefusedLayout& refused : refused_layouts(*state_)) {
    if (refused.layout == layout) {
      return refused.why;
    }
  }
  return {};
}

std::string Coordinator::stands_because() const {
  return membership::stands_because(*state_);
}

const DurableState& Coordinator::durable() const {
  return state_->durable;
}

}  // namespace dynatrain::membership

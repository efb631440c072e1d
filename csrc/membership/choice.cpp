#include "base/clipped.hpp"
#include "membership/coordinator_state.hpp"
#include <algorithm>
#include <set>
#include <utility>

namespace dynatrain::membership {
namespace {

std::vector<MemberId> available_members(const CoordinatorState& state) {
  std::vector<std::pair<std::int64_t, MemberId>> ordered;
  for (const auto& [id, live] : state.live) {
    const DurableMember& member = state.durable.members.at(id);
    if (member.standing == Standing::kActive) {
      ordered.emplace_back(member.order, id);
    }
  }
  std::ranges::sort(ordered);
  std::vector<MemberId> available;
  available.reserve(ordered.size());
  for (const auto& [order, id] : ordered) {
    available.push_back(id);
  }
  return available;
}

/// What is wrong with a choice, or nothing. A policy may be the user's own.
std::string fault_of(const PolicyChoice& choice, const std::vector<MemberId>& available) {
  const std::set<MemberId> allowed(available.begin(), available.end());
  std::set<MemberId> seen;
  for (const MemberId id : choice.members) {
    if (!allowed.contains(id)) {
      return "the policy chose member " + std::to_string(id.value) + ", which is not available";
    }
    if (!seen.insert(id).second) {
      return "the policy chose member " + std::to_string(id.value) + " twice";
    }
  }
  if (choice.layout.size() > kMaxLayoutBytes) {
    return "the policy chose a layout whose text is too long";
  }
  return {};
}

std::int64_t due_ms(const CoordinatorState& state) {
  return std::max(state.quiet_until_ms, state.back_off_until_ms);
}

}  // namespace

void on_advises(CoordinatorState& state, MemberId id) {
  const auto found = state.live.find(id);
  if (found == state.live.end()) {
    ++state.num_stale;
  } else if (!std::exchange(found->second.has_policy, true)) {
    note_change(state);
  }
}

void on_advice(CoordinatorState& state, const Advice& event) {
  if (!state.consultation || state.consultation->number != event.number ||
      state.consultation->advice) {
    ++state.num_stale;
    return;
  }
  state.consultation->advice = event;
  // It may be late: what was chosen without it is looked at again. An attempt goes on to its end,
  // and who is there then is asked about anew.
  state.is_undecided = state.is_undecided || !state.attempt;
}

bool is_advised(CoordinatorState& state) {
  if (!state.consultation) {
    const std::vector<MemberId> available = available_members(state);
    const auto asked =
        std::ranges::find_if(available, [&](MemberId id) { return state.live.at(id).has_policy; });
    if (asked == available.end()) {
      return true;
    }
    state.consultation = Consultation{
        .number = ++state.last_question,
        .deadline_ms = state.now_ms + state.options.deadlines.advice_ms,
    };
    state.out.emplace_back(Consult{state.last_question, *asked});
  }
  return state.consultation->advice || state.now_ms >= state.consultation->deadline_ms;
}

Tried& tried(CoordinatorState& state,
             const std::string& layout,
             const std::vector<MemberId>& members) {
  const auto found = std::ranges::find_if(state.tried, [&](const Tried& each) {
    return each.layout == layout && each.members == members;
  });
  if (found != state.tried.end()) {
    return *found;
  }
  return state.tried.emplace_back(Tried{.layout = layout, .members = members, .why = {}});
}

std::vector<RefusedLayout> refused_layouts(const CoordinatorState& state) {
  std::vector<RefusedLayout> refused;
  for (const Tried& each : state.tried) {
    if (each.num_refused >= state.options.max_refused) {
      refused.push_back({each.layout, each.why});
    }
  }
  return refused;
}

PolicyChoice choose_world(const CoordinatorState& state) {
  const PolicyInput input{
      .available = available_members(state),
      .present = state.durable.world,
      .wish = state.durable.wish,
      .advice = state.consultation ? state.consultation->advice : std::nullopt,
      .refused = refused_layouts(state),
  };
  PolicyChoice choice = state.options.policy(input);
  std::string fault = fault_of(choice, input.available);
  if (!fault.empty()) {
    return PolicyChoice{{}, {}, std::move(fault)};
  }
  choice.why = clipped(std::move(choice.why), kMaxWhyBytes);
  return choice;
}

void consider_change(CoordinatorState& state) {
  if (!state.is_undecided || state.attempt || state.recovery || state.durable.is_finished ||
      lacks_reports(state) || state.now_ms < due_ms(state) || !is_advised(state)) {
    return;
  }
  if (state.is_orphaned && !candidates(state).empty()) {
    state.recovery = Recovery{};  // the first world goes on from what is on disk
    consider_recovery(state);
    return;
  }
  PolicyChoice choice = choose_world(state);
  const World& present = state.durable.world;
  state.is_undecided = false;
  if (choice.members.empty()) {
    state.waits_for = choice.why.empty() ? "the policy chose no world" : choice.why;
    return;
  }
  if (choice.members == present.members && choice.layout == present.layout) {
    state.waits_for = choice.why.empty() ? "the present world is the one that is wanted"
                                         : "the present world stays: " + choice.why;
    return;
  }
  const Tried& so_far = tried(state, choice.layout, choice.members);
  if (so_far.num_refused >= state.options.max_refused) {
    state.waits_for = "the policy chose '" + choice.layout + "', which is refused: " + so_far.why;
    return;
  }
  Description description;
  if (so_far.num_unprepared >= state.options.max_unprepared && !present.members.empty()) {
    description.cold_because = so_far.why;
  }
  description.source = present;
  description.target = World{present.epoch + 1, choice.layout, std::move(choice.members), 0};
  begin_attempt(state, std::move(description));
}

}  // namespace dynatrain::membership

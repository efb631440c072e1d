#include "membership/coordinator_state.hpp"

namespace dynatrain::membership {

void begin_search(CoordinatorState& state) {
  state.is_orphaned = true;
  state.num_unreported = 0;
  state.is_state_gone = false;
  if (state.recovery) {
    state.recovery->gone_because.clear();
  }
  for (auto& [id, live] : state.live) {
    expect_report(state, live);
    live.search_deadline_ms = state.now_ms + state.options.deadlines.report_ms;
    ask_for_versions(state, id);
  }
}

void search_again(CoordinatorState& state) {
  const bool is_due = state.is_orphaned && state.recovery && !state.attempt &&
                      !state.is_undecided && !lacks_reports(state) && !state.live.empty() &&
                      state.now_ms >= state.search_again_ms &&
                      state.recovery->candidate >= candidates(state).size();
  if (is_due) {
    begin_search(state);
    try_all_versions(state);
    state.is_undecided = true;
  }
}

void ask_for_versions(CoordinatorState& state, MemberId id) {
  send(state, id, Search{state.durable.world.epoch, state.copies_since});
}

void lose_late_searchers(CoordinatorState& state) {
  if (!state.is_orphaned || !lacks_reports(state) || state.now_ms < state.patient_until_ms ||
      is_cut_off(state)) {
    return;
  }
  std::vector<MemberId> late;
  for (const auto& [id, live] : state.live) {
    if (!live.report && live.search_deadline_ms <= state.now_ms) {
      late.push_back(id);
    }
  }
  for (const MemberId id : late) {
    lose(state, id, "it has not said in time which checkpoints it finds");
  }
}

}  // namespace dynatrain::membership

#pragma once

#include "dynatrain/membership/text.hpp"

#include <string>
#include <vector>

/// Lines that members, coordinators, ledgers and traces are made of.
namespace dynatrain::fuzz {

template <class Value>
void append_lines(std::vector<std::string>& lines, const std::vector<Value>& values) {
  for (const Value& value : values) {
    lines.push_back(membership::encode(value));
  }
}

/// What two members say on their way into a world, through a step that fails, and out of it.
[[nodiscard]] inline std::vector<std::string> lines_of_members() {
  using namespace membership;
  std::vector<std::string> lines;
  append_lines<FromWorker>(
      lines,
      {Join{{1}, "a"},
       Join{{2}, "b"},
       Report{{1}, 0, 0, false, {}},
       Report{{2}, 0, 0, false, {5}},
       Prepared{{1}, 1, 0},
       Prepared{{2}, 1, 0},
       Vote{{1}, 1, true, ""},
       Vote{{2}, 1, true, ""},
       Installed{{1}, 1, 0},
       Heartbeat{{1}, 1, 3, 4, Stage::kNone, 0, 0, Activity::kTraining, false, 1, true},
       StepFailed{{2}, 1, {{1}}},
       Report{{1}, 1, 3, true, {2, 1}},
       PrepareFailed{{2}, 2, "no", true, false},
       Promise{{1}, 2, 1, true, 3},
       Leave{{2}, 30'000},
       Gone{{1}, true}});
  append_lines<CoordinatorEvent>(lines,
                                 {Resize{"dp=1"},
                                  Drain{{2}},
                                  ConnectionClosed{{2}},
                                  Advises{{1}},
                                  Advice{1, "dp=2", 2, ""},
                                  Tick{}});
  return lines;
}

/// What a member hears and what its process tells it, through a planned change and a recovery.
[[nodiscard]] inline std::vector<std::string> lines_to_a_member() {
  using namespace membership;
  std::vector<std::string> lines;
  append_lines<FromCoordinator>(lines,
                                {Welcome{},
                                 Search{0, 0},
                                 Prepare{1, ChangeKind::kRecovery, 0, false, 1, 0},
                                 Go{1, 0, 0},
                                 Decision{1, true, ""},
                                 Heard{},
                                 Prepare{2, ChangeKind::kPlanned, 1, true, 2, 1},
                                 Propose{2, 1, 4},
                                 Halt{1, "member 2 is lost"},
                                 Holds{"too few", true},
                                 Forget{2},
                                 Refused{"no", true},
                                 Released{},
                                 Lost{"silent"}});
  append_lines<WorkerEvent>(lines,
                            {Found{{3}},
                             PrepareDone{1},
                             AtBoundary{0},
                             SwitchMoved{1},
                             StepBroke{{{2}}},
                             PrepareBroke{2, "no", true, false},
                             SwitchBroke{2, "no", true},
                             Stopped{1, true, {0}},
                             Copied{1, true},
                             LeaveWanted{1000},
                             ScriptFinished{},
                             Tick{}});
  return lines;
}

[[nodiscard]] inline std::vector<std::string> lines_of_a_ledger() {
  using namespace membership;
  std::vector<std::string> lines;
  append_lines<Record>(lines,
                       {MemberJoined{{1}, "a", "seed=1", "m"},
                        MemberJoined{{2}, "b", "", ""},
                        LayoutWished{"dp=2"},
                        AttemptBegun{1},
                        AttemptCommitted{1, World{1, "dp=2", {{1}, {2}}, 7}},
                        AttemptBegun{2},
                        AttemptAborted{2, "why"},
                        WorldHalted{1, "lost"},
                        MemberLeaves{{2}},
                        MemberReleased{{2}},
                        MemberLost{{1}, "late"},
                        JobFinished{1}});
  return lines;
}

[[nodiscard]] inline std::vector<std::string> lines_of_every_kind() {
  std::vector<std::string> lines = lines_of_members();
  for (const auto& more : {lines_to_a_member(), lines_of_a_ledger()}) {
    lines.insert(lines.end(), more.begin(), more.end());
  }
  lines.push_back(membership::encode(membership::Description{3,
                                                             membership::ChangeKind::kRecovery,
                                                             {1, "dp=1", {{1}}, 0},
                                                             {2, "dp=1", {{2}}, 9},
                                                             {},
                                                             {{3}},
                                                             "100 %"}));
  return lines;
}

}  // namespace dynatrain::fuzz

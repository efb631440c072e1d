#include "dynatrain/membership/text.hpp"

#include "dynatrain/base/error.hpp"
#include "dynatrain/membership/trace.hpp"

#include <gtest/gtest.h>

#include "membership/coordinator_desk.hpp"
#include "membership/simulation/random.hpp"
#include <string>
#include <vector>

namespace dynatrain::membership {
namespace {

using simulation::Random;
using testing::CoordinatorDesk;
using testing::two_or_one;

std::string all_bytes() {
  std::string text;
  for (int byte = 0; byte < 256; ++byte) {
    text += static_cast<char>(byte);
  }
  return text;
}

/// True when the line is read, and written as it was.
template <class Value>
bool travels(const Value& value) {
  const std::string line = encode(value);
  return encode(decode<Value>(line)) == line;
}

template <class Value>
bool is_refused(const std::string& line) {
  try {
    (void)decode<Value>(line);
  } catch (const LayoutError&) {
    return true;
  }
  return false;
}

// ---- what is written is read -------------------------------------------------------------------

TEST(Text, EveryMessageOfAMemberTravels) {
  const std::vector<FromWorker> messages{
      Join{{~0ULL}, "host-1"},
      Heartbeat{{1}, 2, 3, 4, Stage::kVoted, 5, 6, Activity::kHalted, true, 2, true},
      Leave{{1}, 30'000},
      Prepared{{1}, 2, 3},
      PrepareFailed{{1}, 2, all_bytes(), true},
      Promise{{1}, 2, 3, true, 4},
      Vote{{1}, 2, false, "why not: 100 %", true},
      Installed{{1}, 2, 3},
      StepFailed{{1}, 2, {{3}, {4}}},
      Report{{1}, 2, 3, true, {9, 6}},
      Gone{{1}, true}};
  for (const FromWorker& message : messages) {
    EXPECT_TRUE(travels(message)) << encode(message);
  }
}

TEST(Text, EveryMessageOfTheCoordinatorTravels) {
  const std::vector<FromCoordinator> messages{Welcome{},
                                              Refused{"why"},
                                              Heard{},
                                              Prepare{1, ChangeKind::kRecovery, 2, true, 3, -1},
                                              Propose{1, 2, 3},
                                              Go{1, 2, 3},
                                              Decision{1, false, ""},
                                              Halt{1, all_bytes()},
                                              Holds{all_bytes(), true},
                                              Search{4, 3},
                                              Forget{4},
                                              Released{},
                                              Lost{"no heartbeat"}};
  for (const FromCoordinator& message : messages) {
    EXPECT_TRUE(travels(message)) << encode(message);
  }
}

// A trace of a member whose end had no name ended that member in its stead.
TEST(Text, EveryEndOfAMemberIsWritten) {
  const auto first = static_cast<int>(EndReason::kReleased);
  const auto last = static_cast<int>(EndReason::kStateGone);
  for (int each = first; each <= last; ++each) {
    const auto reason = static_cast<EndReason>(each);
    const std::string line = encode(WorkerAction{End{reason, "why"}});
    EXPECT_NE(line.find(std::string(end_reason_name(reason)) + " why=why"), std::string::npos)
        << line;
  }
}

TEST(Text, QuestionsToScriptsAndTheirAnswersTravel) {
  EXPECT_TRUE(travels(CoordinatorEvent{Advises{{7}}}));
  EXPECT_TRUE(travels(CoordinatorEvent{Advice{3, "dp=2", 2, {}}}));
  EXPECT_TRUE(travels(CoordinatorEvent{Advice{3, {}, 0, "KeyError: 'a host'"}}));
  EXPECT_TRUE(travels(CoordinatorAction{Consult{3, {7}}}));
}

TEST(Text, EveryRecordTravels) {
  const std::vector<Record> records{MemberJoined{{1}, "host"},
                                    MemberLeaves{{1}},
                                    MemberReleased{{1}},
                                    MemberLost{{1}, "why"},
                                    LayoutWished{"dp=2 tp=4"},
                                    AttemptBegun{1},
                                    AttemptAborted{1, "why"},
                                    AttemptCommitted{1, World{1, "dp=2", {{1}, {2}}, 7}},
                                    WorldHalted{1, "why"},
                                    JobFinished{1}};
  for (const Record& record : records) {
    EXPECT_TRUE(travels(record)) << encode(record);
  }
}

TEST(Text, ADescriptionTravels) {
  const Description description{3,
                                ChangeKind::kRecovery,
                                World{1, "dp=2", {{1}, {2}}, 0},
                                World{2, "dp=1", {{1}}, 9},
                                {Holding::kLive, Holding::kAbsent},
                                {{3}, {4}},
                                "no two steps have the same tensors: 100 %"};

  EXPECT_EQ(decode<Description>(encode(description)), description);
}

TEST(Text, KeepsEveryByteOfAText) {
  const FromWorker message = Join{{1}, all_bytes().substr(1)};

  EXPECT_EQ(std::get<Join>(decode<FromWorker>(encode(message))).host, all_bytes().substr(1));
}

// ---- what is not written is refused ------------------------------------------------------------

// What comes over the wire or from a file may be anything. One spelling: a line that is read is the
// line that would be written.
TEST(Text, HostileLinesAreRefused) {
  const std::vector<std::string> lines{
      "",
      " ",
      "1",
      "2 leave id=1 grace_ms=5",
      "1 leave",
      "1 leave id=1",
      "1 leave id=0 grace_ms=5",
      "1 leave id=01 grace_ms=5",
      "1 leave id=+1 grace_ms=5",
      "1 leave id=-1 grace_ms=5",
      "1 leave id=18446744073709551616 grace_ms=5",
      "1 leave id=1 grace_ms=9007199254740993",
      "1 leave id=1 grace_ms=-2",
      "1 leave id=1 grace_ms=5 ",
      "1 leave id=1  grace_ms=5",
      " 1 leave id=1 grace_ms=5",
      "1 leave id=1 grace_ms=5 more=1",
      "1 leave grace_ms=5 id=1",
      "1 leave id=1 grace_ms=5\n",
      std::string("1 leave id=1 grace_ms=5\0", 24),
      "1 leave id=1 grace_ms=\xc3\xa9",
      "1 leave id=1 grace_ms=0x5",
      "1 welcome",
      "1 gone id=1 finished=2",
      "1 gone id=1 finished=true",
      "1 join id=1 host=a%2",
      "1 join id=1 host=a%zz",
      "1 join id=1 host=a%2f",
      "1 join id=1 host=a%41",
      "1 join id=1 host=" + std::string(256, 'h'),
      "1 step-failed id=1 epoch=1 suspects=1:",
      "1 step-failed id=1 epoch=1 suspects=:1",
      "1 step-failed id=1 epoch=1 suspects=1::2",
      "1 vote id=1 attempt=1 yes=1 why=" + std::string(kMaxMessageBytes, 'w')};
  for (const std::string& line : lines) {
    EXPECT_TRUE(is_refused<FromWorker>(line)) << line;
  }
}

TEST(Text, ListsAreBounded) {
  std::string line = "1 step-failed id=1 epoch=1 suspects=1";
  for (std::size_t i = 1; i < kMaxSuspects; ++i) {
    line += ":1";
  }
  EXPECT_FALSE(is_refused<FromWorker>(line));
  EXPECT_TRUE(is_refused<FromWorker>(line + ":1"));
}

TEST(Text, WhatWouldNotBeReadIsNotWritten) {
  EXPECT_THROW((void)encode(FromWorker{Join{{1}, std::string(256, 'h')}}), LayoutError);
  EXPECT_THROW((void)encode(FromWorker{Leave{{1}, kMaxNumber + 1}}), LayoutError);
  EXPECT_THROW((void)encode(FromWorker{StepFailed{{1}, 1, std::vector<MemberId>(65, {2})}}),
               LayoutError);
}

// Lines that differ from good ones in a few bytes: read as they stand, or refused, never repaired.
TEST(Text, AChangedLineIsRefusedOrIsTheOnlySpellingOfWhatItSays) {
  const std::vector<std::string> good{
      encode(FromWorker{Heartbeat{{12}, 2, 3, 4, Stage::kVoted, 5, 6, Activity::kHalted, true}}),
      encode(FromWorker{PrepareFailed{{1}, 2, "no memory: 100 %", true}}),
      encode(FromWorker{Report{{1}, 2, 3, true, {9, 6}}}),
      encode(FromWorker{StepFailed{{1}, 2, {{3}, {4}}}})};
  constexpr std::string_view alphabet = "0123456789 =:%-aAzZ._";
  Random random(1);
  int num_read = 0;
  for (int i = 0; i < 100'000; ++i) {
    std::string line = good[random.next() % good.size()];
    for (std::int64_t change = random.between(1, 3); change > 0; --change) {
      const std::size_t place = random.next() % line.size();
      const char byte = random.percent(10) ? static_cast<char>(random.between(0, 255))
                                           : alphabet[random.next() % alphabet.size()];
      switch (random.between(0, 2)) {
        case 0:
          line[place] = byte;
          break;
        case 1:
          line.insert(place, 1, byte);
          break;
        default:
          line.erase(place, 1);
      }
    }
    if (!is_refused<FromWorker>(line)) {
      ++num_read;
      ASSERT_EQ(encode(decode<FromWorker>(line)), line);
    }
  }
  EXPECT_GT(num_read, 1000);
}

// ---- traces ------------------------------------------------------------------------------------

/// What a coordinator did when two members joined.
std::string trace_of_two() {
  CoordinatorDesk desk(two_or_one());
  std::string trace;
  const auto add = [&](const CoordinatorEvent& event) {
    trace += trace_of(desk.now_ms, event, desk.give(event));
  };
  add(Join{{1}, "a"});
  add(Join{{2}, "b"});
  add(Report{{1}, 0, 0, false, {}});
  add(Report{{2}, 0, 0, false, {}});
  desk.now_ms = desk.deadlines().settle_ms;
  add(Tick{});
  return trace;
}

std::optional<TraceDifference> replayed(const std::string& trace) {
  Coordinator machine(CoordinatorDesk(two_or_one()).options(), {}, 0);
  return replay_trace(machine, trace);
}

TEST(Trace, RunsAgain) {
  EXPECT_FALSE(replayed(trace_of_two()).has_value());
}

TEST(Trace, TheFirstDifferenceIsNamed) {
  std::string trace = trace_of_two();
  trace.replace(trace.find("host=b"), 6, "host=c");

  const auto difference = replayed(trace);

  ASSERT_TRUE(difference.has_value());
  EXPECT_EQ(difference->line, 6);
  EXPECT_EQ(difference->expected, "1 persist member-joined id=2 host=b settings= machine=");
  EXPECT_EQ(difference->got, "1 persist member-joined id=2 host=c settings= machine=");
}

TEST(Trace, AnActionThatIsMissingIsADifference) {
  std::string trace = trace_of_two();
  trace.erase(trace.rfind("500 action"));

  ASSERT_TRUE(replayed(trace).has_value());
  EXPECT_EQ(replayed(trace)->expected, "");
}

TEST(Trace, LinesThatAreNoneAreRefused) {
  EXPECT_THROW((void)replayed("x event 1 tick\n"), LayoutError);
  EXPECT_THROW((void)replayed("5 happening 1 tick\n"), LayoutError);
  EXPECT_THROW((void)replayed("0 action 1 persist attempt-begun attempt=1\n"), LayoutError);
  EXPECT_THROW((void)replayed("5 event 1 tick\n4 event 1 tick\n"), LayoutError);
}

// Deadlines are sums of a time and what is waited: at the end of 64 bits they would be in the past.
TEST(Trace, TimesThatNoClockHasAreRefused) {
  EXPECT_FALSE(replayed("9007199254740992 event 1 tick\n").has_value());

  EXPECT_THROW((void)replayed("9007199254740993 event 1 tick\n"), LayoutError);
  EXPECT_THROW((void)replayed("9223372036854775807 event 1 tick\n"), LayoutError);
  EXPECT_THROW((void)replayed("-1 event 1 tick\n"), LayoutError);
}

}  // namespace
}  // namespace dynatrain::membership

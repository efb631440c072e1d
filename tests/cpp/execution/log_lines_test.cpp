#include "dynatrain/base/log.hpp"

#include <gtest/gtest.h>

#include "execution/switch_over_loopback.hpp"
#include <algorithm>
#include <string>
#include <utility>
#include <vector>

namespace dynatrain {
namespace {

// Whoever looks for a slow stage turns DEBUG on; a line per part or element would bury it, and slow
// the switch down.
TEST(ExecutionLog, RunWritesOneDebugLinePerRankAndStage) {
  std::vector<std::string> lines;  // the sink is called by one thread at a time
  LogSink former =
      set_log_sink([&lines](LogLevel level, std::string_view room, std::string_view text) {
        EXPECT_EQ(level, LogLevel::kDebug);
        EXPECT_EQ(room, "execution");
        lines.emplace_back(text);
      });
  const ShardMap source = model_map(Layout::parse("dp=4"));
  const ShardMap target = model_map(Layout::parse("dp=2,tp=2"));
  SwitchCase what;
  what.schedule.staging_budget_bytes = 32 << 10U;
  what.schedule.min_message_bytes = 1;
  const SwitchOutcome outcome = switch_over_loopback(source, target, what);
  set_log_sink(std::move(former));
  expect_identity(source, target, outcome);

  const std::size_t num_stages = outcome.schedules.front().stages.size();
  EXPECT_GT(num_stages, 1U);
  EXPECT_EQ(lines.size(), 4 * num_stages);
  const std::string last = std::to_string(num_stages);
  for (int rank = 0; rank < 4; ++rank) {
    const std::string begin =
        "rank " + std::to_string(rank) + ": stage " + last + " of " + last + " landed; sent ";
    EXPECT_EQ(std::count_if(lines.begin(),
                            lines.end(),
                            [&](const std::string& line) { return line.starts_with(begin); }),
              1);
  }
}

}  // namespace
}  // namespace dynatrain

#include <gtest/gtest.h>

#include "execution/switch_over_loopback.hpp"
#include <map>
#include <mutex>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

namespace dynatrain {
namespace {

// A range that stays open swallows the rest of a profile.
TEST(PhaseRange, EveryRangeIsClosedByTheThreadThatOpenedIt) {
  std::mutex mutex;
  std::map<std::thread::id, std::vector<std::string>> open;
  std::map<std::string, int> num_opened;
  SwitchCase what;
  what.execute.ranges.begin = [&](const char* name) {
    const std::lock_guard lock(mutex);
    open[std::this_thread::get_id()].emplace_back(name);
    ++num_opened[name];
  };
  what.execute.ranges.end = [&] {
    const std::lock_guard lock(mutex);
    ASSERT_FALSE(open[std::this_thread::get_id()].empty());
    open[std::this_thread::get_id()].pop_back();
  };
  const ShardMap source = model_map(Layout::parse("dp=4"));
  const ShardMap target = model_map(Layout::parse("dp=2,tp=2"));
  const SwitchOutcome outcome = switch_over_loopback(source, target, what);
  expect_identity(source, target, outcome);
  EXPECT_EQ(open.size(), 4U);
  for (const auto& [thread, names] : open) {
    EXPECT_TRUE(names.empty());
  }
  const auto num_stages = static_cast<int>(4 * outcome.schedules.front().stages.size());
  for (const char* const name : {"pack", "wire", "unpack", "local"}) {
    EXPECT_EQ(num_opened["dynatrain::" + std::string(name)], num_stages) << name;
  }
}

TEST(PhaseRange, ProfilerThatThrowsDoesNotStopASwitch) {
  SwitchCase what;
  what.execute.ranges.begin = [](const char*) { throw std::runtime_error("no profiler"); };
  what.execute.ranges.end = [] { throw std::runtime_error("no profiler"); };
  const ShardMap source = model_map(Layout::parse("dp=2"));
  const ShardMap target = model_map(Layout::parse("tp=2"));
  expect_identity(source, target, switch_over_loopback(source, target, what));
}

}  // namespace
}  // namespace dynatrain

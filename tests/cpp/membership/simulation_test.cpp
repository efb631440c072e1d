// Many runs of the whole protocol, each drawn from a seed. One that fails prints its seed and what
// is needed of it; DYNATRAIN_SIMULATION_SEED=<seed> runs it again alone, with all that happened.

#include "membership/simulation/simulation.hpp"

#include <gtest/gtest.h>

#include "membership/simulation/shrink.hpp"
#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <string>

namespace dynatrain::membership::simulation {
namespace {

constexpr std::uint64_t kNumSeeds = 20'000;
constexpr std::uint64_t kNumSeedsLong = 100'000;

struct Sum {
  std::int64_t num_worlds = 0;
  std::int64_t num_halts = 0;
  std::int64_t num_undecided = 0;
  std::int64_t num_without_state = 0;
  std::int64_t num_finished = 0;
};

std::string violation_of(const Scenario& scenario) {
  return Simulation(scenario, false).run().violation;
}

/// What to print of a seed that failed: the shortest run that still fails.
std::string story_of(const Scenario& scenario) {
  const Scenario small =
      shrunk(scenario, [](const Scenario& tried) { return !violation_of(tried).empty(); });
  return violation_of(scenario) + "\nDYNATRAIN_SIMULATION_SEED=" + std::to_string(scenario.seed) +
         " runs it again; what is needed of it:\n" + to_text(small) + violation_of(small);
}

/// Runs the seeds of [first, end) up to the first that fails.
Sum run_seeds(std::uint64_t first, std::uint64_t end) {
  Sum sum;
  for (std::uint64_t seed = first; seed < end; ++seed) {
    const Scenario scenario = draw_scenario(seed);
    const Outcome outcome = Simulation(scenario, false).run();
    if (!outcome.violation.empty()) {
      ADD_FAILURE() << story_of(scenario);
      return sum;
    }
    sum.num_worlds += outcome.num_worlds;
    sum.num_halts += outcome.num_halts;
    sum.num_undecided += outcome.num_undecided;
    sum.num_without_state += outcome.is_stuck_without_state ? 1 : 0;
    sum.num_finished += outcome.is_finished ? 1 : 0;
  }
  return sum;
}

// Whatever is lost, late, doubled, cut off, killed or paused: two worlds never train, no step is
// skipped or repeated, nobody is told what the disk does not say, and in the end all train again.
TEST(Simulation, KeepsItsPromisesWhateverHappens) {
  if (const char* const seed = std::getenv("DYNATRAIN_SIMULATION_SEED")) {
    const Scenario scenario = draw_scenario(std::strtoull(seed, nullptr, 10));
    EXPECT_EQ(Simulation(scenario, true).run().violation, "") << story_of(scenario);
    return;
  }
  const Sum sum = run_seeds(0, kNumSeeds);
  if (HasFailure()) {
    return;  // the sums of a part of the runs say nothing
  }

  // Runs in which little happens would prove little.
  EXPECT_GE(sum.num_worlds, 2 * static_cast<std::int64_t>(kNumSeeds));
  EXPECT_GE(sum.num_halts, static_cast<std::int64_t>(kNumSeeds) / 2);
  EXPECT_GE(sum.num_undecided, 10);
  EXPECT_GE(sum.num_finished, 100);
  EXPECT_LE(sum.num_without_state, static_cast<std::int64_t>(kNumSeeds) / 5);
}

TEST(SimulationLong, KeepsItsPromisesWhateverHappens) {
  (void)run_seeds(kNumSeeds, kNumSeeds + kNumSeedsLong);
}

// Without a fault no change may fail: what is then left of the protocol is its straight way.
TEST(Simulation, ChangesWithoutFaultsEndInTheWorldThatIsWanted) {
  for (std::uint64_t seed = 0; seed < 500; ++seed) {
    const Scenario scenario = draw_calm_scenario(seed);
    const Outcome outcome = Simulation(scenario, false).run();
    ASSERT_EQ(outcome.violation, "") << to_text(scenario);
    ASSERT_EQ(outcome.num_halts, 0) << to_text(scenario);
  }
}

// A seed is worth printing only if it draws the same run again.
TEST(Simulation, OneSeedIsOneRun) {
  for (std::uint64_t seed = 0; seed < 50; ++seed) {
    const Outcome first = Simulation(draw_scenario(seed), false).run();
    const Outcome second = Simulation(draw_scenario(seed), false).run();
    EXPECT_EQ(first.num_happenings, second.num_happenings) << "seed " << seed;
  }
}

// What a reader of a failure is given must be short, or nobody reads it.
TEST(Simulation, ShrinkingLeavesOutWhatIsNotNeeded) {
  Scenario scenario = draw_scenario(7);
  scenario.loss_percent = 10;
  scenario.incidents.assign(9, Incident{.kind = IncidentKind::kPause});
  scenario.incidents[4].kind = IncidentKind::kCrash;

  const Scenario small = shrunk(scenario, [](const Scenario& tried) {
    return std::ranges::any_of(tried.incidents, [](const Incident& incident) {
      return incident.kind == IncidentKind::kCrash;
    });
  });

  ASSERT_EQ(small.incidents.size(), 1U);
  EXPECT_EQ(small.incidents[0].kind, IncidentKind::kCrash);
  EXPECT_EQ(small.loss_percent, 0);
}

}  // namespace
}  // namespace dynatrain::membership::simulation

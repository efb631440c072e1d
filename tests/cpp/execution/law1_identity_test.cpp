// Law 1: after a switch every element of every logical tensor is bit-identical on every rank that
// holds it.

#include <gtest/gtest.h>

#include "execution/switch_over_loopback.hpp"
#include <cstdlib>
#include <random>
#include <string>
#include <vector>

namespace dynatrain {
namespace {

/// Small slots and thresholds, so that a toy model has many stages, cuts and direct messages.
SwitchCase many_stages() {
  SwitchCase what;
  what.schedule.staging_budget_bytes = 32 << 10U;
  what.schedule.direct_threshold_bytes = 32;
  what.schedule.min_message_bytes = 1;
  what.schedule.num_stages_to_overlap = 5;
  what.execute.timeout = std::chrono::seconds(30);
  return what;
}

void switch_and_expect(const Layout& from, const Layout& to, const SwitchCase& what) {
  SCOPED_TRACE(from.to_string() + " -> " + to.to_string());
  const ShardMap source = model_map(from);
  const ShardMap target = model_map(to);
  expect_identity(source, target, switch_over_loopback(source, target, what));
}

std::vector<Layout> all_layouts(bool with_replicate) {
  std::vector<Layout> layouts;
  for (int world_size = 1; world_size <= 8; ++world_size) {
    for (const Layout& layout : layouts_of(world_size, with_replicate)) {
      layouts.push_back(layout);
    }
  }
  return layouts;
}

// Every pair of layouts a user may ask for, world sizes 3, 5, 6 and 7 too: a wrong box anywhere is
// a model that trains on with permuted weights and no error.
TEST(Law1Identity, EveryPairOfLayoutsUpToEightRanks) {
  const std::vector<Layout> layouts = all_layouts(false);
  for (const Layout& from : layouts) {
    for (const Layout& to : layouts) {
      switch_and_expect(from, to, many_stages());
      ASSERT_FALSE(HasFailure());
    }
  }
}

// Replicas multiply the owners of a cell, and with them the ways to choose a sender.
TEST(Law1Identity, SampledPairsWithReplication) {
  const std::vector<Layout> layouts = all_layouts(true);
  std::mt19937_64 random(5);
  for (int i = 0; i < 200; ++i) {
    switch_and_expect(
        layouts[random() % layouts.size()], layouts[random() % layouts.size()], many_stages());
    ASSERT_FALSE(HasFailure());
  }
}

TEST(Law1IdentityLong, EveryPairWithReplication) {
  const std::vector<Layout> layouts = all_layouts(true);
  for (const Layout& from : layouts) {
    for (const Layout& to : layouts) {
      switch_and_expect(from, to, many_stages());
      ASSERT_FALSE(HasFailure());
    }
  }
}

// The one-sided path has copies of its own, from other ranks' memory straight into the target.
TEST(Law1Identity, OneSidedPathDeliversTheSameBits) {
  SwitchCase what = many_stages();
  what.loopback.one_sided = true;
  std::mt19937_64 random(6);
  const std::vector<Layout> layouts = all_layouts(true);
  for (int i = 0; i < 200; ++i) {
    switch_and_expect(layouts[random() % layouts.size()], layouts[random() % layouts.size()], what);
    ASSERT_FALSE(HasFailure());
  }
}

// Mapped in PREPARE, read in the run: a reader that did not wait for its owner's word would find
// what lay there before the last training steps.
TEST(Law1Identity, SourcesMappedAheadAreReadOnceTheyAreFinal) {
  SwitchCase what = many_stages();
  what.loopback.one_sided = true;
  what.map_ahead = true;
  std::mt19937_64 random(7);
  const std::vector<Layout> layouts = all_layouts(true);
  for (int i = 0; i < 100; ++i) {
    switch_and_expect(layouts[random() % layouts.size()], layouts[random() % layouts.size()], what);
    ASSERT_FALSE(HasFailure());
  }
}

// A rank of another machine is in the messages while these are read in place, in whatever order
// they arrive.
TEST(Law1Identity, RanksOfSeveralMachinesGetTheSameBits) {
  SwitchCase what = many_stages();
  what.loopback = {.adversary_seed = 5, .one_sided = true, .ranks_per_machine = 2};
  what.map_ahead = true;
  std::mt19937_64 random(8);
  const std::vector<Layout> layouts = layouts_of(4, true);
  for (int i = 0; i < 40; ++i) {
    switch_and_expect(layouts[random() % layouts.size()], layouts[random() % layouts.size()], what);
    ASSERT_FALSE(HasFailure());
  }
}

// Sums are optional, and their absence moves every offset in a message.
TEST(Law1Identity, HoldsWithoutSumsAndInMailboxes) {
  SwitchCase what = many_stages();
  what.schedule.with_sums = false;
  what.loopback.rendezvous = false;
  switch_and_expect(Layout::parse("dp=4"), Layout::parse("dp=2,tp=2"), what);
  what.verify_sums = false;
  switch_and_expect(Layout::parse("tp=2,pp=2"), Layout::parse("dp=3,tp=2"), what);
}

}  // namespace
}  // namespace dynatrain

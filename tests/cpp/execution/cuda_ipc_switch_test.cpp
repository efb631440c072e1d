// Law 1 and the failures of a switch, over memory that peers open instead of receiving it.

#include "dynatrain/base/error.hpp"

#include <gtest/gtest.h>

#include "execution/switch_over_loopback.hpp"
#include "transport/ipc_world.hpp"
#include <algorithm>
#include <exception>
#include <functional>
#include <numeric>
#include <random>
#include <set>
#include <string>
#include <thread>
#include <utility>
#include <vector>

namespace dynatrain {
namespace {

/// A rank's source in fake device memory: all tensors in one segment, at odd places.
struct DeviceSource {
  TensorMemory memory;
  std::byte* segment = nullptr;

  static DeviceSource make(FakeIpcMachine& machine, int rank, IpcKind kind, RankBuffers& buffers) {
    DeviceSource source;
    constexpr std::int64_t kPiece = 4096;
    std::int64_t total = 0;
    source.memory = buffers.memory();
    for (const std::int64_t size_bytes : source.memory.size_bytes) {
      total += (size_bytes + 15) / 16 * 16 + 16;
    }
    const std::int64_t num_pieces = total / kPiece + 1;
    source.segment = kind == IpcKind::kFile
                         ? machine.allocate(rank, kind, kPiece, static_cast<int>(num_pieces))
                         : machine.allocate(rank, kind, num_pieces * kPiece);
    std::byte* at = source.segment + 16;
    for (std::size_t i = 0; i < source.memory.base.size(); ++i) {
      if (source.memory.base[i] != nullptr) {
        source.memory.base[i] = at;
        at += (source.memory.size_bytes[i] + 15) / 16 * 16 + 16;
      }
    }
    return source;
  }
  void fill(const RankBuffers& buffers) const {
    for (std::size_t i = 0; i < memory.base.size(); ++i) {
      std::ranges::copy(buffers.bytes[i], memory.base[i]);
    }
  }
};

struct Outcome {
  std::vector<RankBuffers> target;
  std::vector<DividedPlan> divided;  ///< where the sources were mapped ahead
  std::vector<std::exception_ptr> errors;
};

struct IpcSwitch {
  ExecuteOptions execute{.timeout = std::chrono::seconds(20)};
  IpcKind kind = IpcKind::kHandle;
  bool allow_one_sided = true;
  bool map_ahead = true;
  bool frees_source = false;  ///< right after its run, as a session does
  std::function<void(int rank, DeviceSource& source)> before_map;
  std::function<void(int rank)> before_run;

  /// One switch; maps while the source holds nothing, runs once it is final.
  Outcome run(FakeIpcWorld& world, const ShardMap& source, const ShardMap& target) const {
    const auto num_ranks = static_cast<std::size_t>(world.size());
    Outcome outcome;
    outcome.target.resize(num_ranks);
    outcome.divided.resize(num_ranks);
    outcome.errors.resize(num_ranks);
    std::vector<std::thread> threads;
    for (std::size_t i = 0; i < num_ranks; ++i) {
      threads.emplace_back([&, i] {
        try {
          run_rank(world, source, target, static_cast<int>(i), outcome);
        } catch (...) {
          outcome.errors[i] = std::current_exception();
        }
      });
    }
    for (std::thread& thread : threads) {
      thread.join();
    }
    return outcome;
  }

 private:
  void run_rank(FakeIpcWorld& world,
                const ShardMap& source,
                const ShardMap& target,
                int rank,
                Outcome& outcome) const {
    const auto index = static_cast<std::size_t>(rank);
    const Plan plan = make_plan(source, target, rank, {});
    RankBuffers tags = tagged_buffers(source, rank);
    outcome.target[index] = empty_buffers(target, rank);
    DeviceSource device = DeviceSource::make(*world.machine, rank, kind, tags);
    const auto copier = make_cpu_copier(1);
    // Tags are counted by the executor: those of this world's later switches come after.
    Executor executor(world.rank(rank), *copier, world.next_tag);
    executor.agree(plan, execute);
    if (before_map) {
      before_map(rank, device);
    }
    if (map_ahead) {
      outcome.divided[index] = executor.map_sources(plan, source, device.memory, execute);
    }
    device.fill(tags);
    if (before_run) {
      before_run(rank);
    }
    const auto run = [&](const Plan& part, bool in_place) {
      const Schedule schedule = make_schedule(part, source, target, 3, {});
      RunControl control;
      static_cast<void>(executor.run({.plan = part,
                                      .schedule = schedule,
                                      .source = source,
                                      .target = target,
                                      .source_memory = device.memory,
                                      .target_memory = outcome.target[index].memory(),
                                      .allow_one_sided = in_place},
                                     execute,
                                     control));
    };
    if (map_ahead && allow_one_sided) {
      run(outcome.divided[index].in_place, true);
      run(outcome.divided[index].by_messages, false);
    } else {
      run(plan, allow_one_sided);
    }
    if (frees_source) {
      world.machine->free(device.segment);
    }
  }
};

void expect_arrived(const ShardMap& target, const Outcome& outcome) {
  for (std::size_t i = 0; i < outcome.target.size(); ++i) {
    try {
      if (outcome.errors[i] != nullptr) {
        std::rethrow_exception(outcome.errors[i]);
      }
    } catch (const std::exception& error) {
      ADD_FAILURE() << "rank " << i << ": " << error.what();
      continue;
    }
    EXPECT_EQ(first_wrong(target, static_cast<int>(i), outcome.target[i]), "");
  }
}

// The bits of law 1 must not depend on how peers' memory is reached, nor on when it was mapped.
TEST(CudaIpcSwitch, EveryElementArrivesFromBothKindsOfMemory) {
  std::mt19937_64 random(8);
  for (const int num_ranks : {2, 3, 4, 6}) {
    const std::vector<Layout> layouts = layouts_of(num_ranks, true);
    FakeIpcWorld world(num_ranks);
    for (int i = 0; i < 12; ++i) {
      const ShardMap source = model_map(layouts[random() % layouts.size()]);
      const ShardMap target = model_map(layouts[random() % layouts.size()]);
      IpcSwitch what;
      what.kind = i % 2 == 0 ? IpcKind::kHandle : IpcKind::kFile;
      what.map_ahead = i % 3 != 0;
      expect_arrived(target, what.run(world, source, target));
      world.next_tag += 100;
      ASSERT_FALSE(::testing::Test::HasFailure()) << num_ranks << " ranks, switch " << i;
    }
  }
}

// An owner that freed before its slowest reader has acknowledged would free what is open, which the
// machine counts.
TEST(CudaIpcSwitch, SourceMayBeFreedAsSoonAsTheRunHasEnded) {
  FakeIpcWorld world(4);
  const ShardMap source = model_map(Layout::parse("dp=4"));
  const ShardMap target = model_map(Layout::parse("dp=2,tp=2"));
  for (int i = 0; i < 20; ++i) {
    IpcSwitch what;
    what.frees_source = true;
    expect_arrived(target, what.run(world, source, target));
    world.next_tag += 100;
  }
}

class CudaIpcSwitchFailure : public ::testing::Test {
 protected:
  /// The error of a rank; none where it ended well.
  static std::string error_of(const Outcome& outcome, std::size_t rank) {
    try {
      if (outcome.errors[rank] != nullptr) {
        std::rethrow_exception(outcome.errors[rank]);
      }
    } catch (const std::exception& error) {
      return error.what();
    }
    return "";
  }

  ShardMap source_ = model_map(Layout::parse("dp=4"));
  ShardMap target_ = model_map(Layout::parse("dp=2,tp=2"));
  IpcSwitch what_;
};

/// Every pair of ranks with a list in the part of the plans that `part` says, as its receivers have
/// it.
std::set<std::pair<int, int>> pairs_of(const Outcome& outcome, Plan DividedPlan::* part) {
  std::set<std::pair<int, int>> pairs;
  for (const DividedPlan& divided : outcome.divided) {
    for (const PairList& list : (divided.*part).receives) {
      pairs.insert({list.peer, (divided.*part).rank});
    }
  }
  return pairs;
}

bool are_of_one_machine(const std::pair<int, int>& pair) {
  return pair.first / 2 == pair.second / 2;
}

// A job has several machines: what one of them has is read there, and sent to the others.
TEST(DividedSwitch, IsReadInPlaceWithinAMachineAndGoesByMessagesBetweenThem) {
  std::mt19937_64 random(9);
  const std::vector<Layout> layouts = layouts_of(4, true);
  FakeIpcWorld world(4, [](FakeIpcWorld& /*world*/, IpcProbe& probe) {
    probe.ranks = probe.rank < 2 ? std::vector{0, 1} : std::vector{2, 3};
    probe.place.boot = probe.rank < 2 ? "one" : "another";
  });
  std::set<std::pair<int, int>> in_place;
  std::set<std::pair<int, int>> by_messages;
  for (int i = 0; i < 20; ++i) {
    const ShardMap source = model_map(layouts[random() % layouts.size()]);
    const ShardMap target = model_map(layouts[random() % layouts.size()]);
    const Outcome outcome = IpcSwitch{}.run(world, source, target);
    expect_arrived(target, outcome);
    in_place.merge(pairs_of(outcome, &DividedPlan::in_place));
    by_messages.merge(pairs_of(outcome, &DividedPlan::by_messages));
    world.next_tag += 100;
  }
  EXPECT_EQ(in_place.size(), 4U);
  EXPECT_TRUE(std::ranges::all_of(in_place, are_of_one_machine));
  EXPECT_EQ(by_messages.size(), 8U);
  EXPECT_TRUE(std::ranges::none_of(by_messages, are_of_one_machine));
}

// Memory that cannot be shared is common (torch's expandable segments without a handle type): what
// lies there must not keep the rest of the switch from being read.
TEST_F(CudaIpcSwitchFailure, WhatOneRankCannotExportGoesByMessagesAndNothingElse) {
  FakeIpcWorld world(4);
  what_.before_map = [&](int rank, DeviceSource& source) {
    if (rank == 2) {
      world.machine->forbid_export(source.segment);
    }
  };
  const Outcome outcome = what_.run(world, source_, target_);
  expect_arrived(target_, outcome);
  EXPECT_NE(outcome.divided[2].problem.find("cannot be exported"), std::string::npos);
  const auto is_of_rank_2 = [](const auto& pair) { return pair.first == 2; };
  EXPECT_FALSE(pairs_of(outcome, &DividedPlan::in_place).empty());
  EXPECT_TRUE(std::ranges::none_of(pairs_of(outcome, &DividedPlan::in_place), is_of_rank_2));
  EXPECT_FALSE(pairs_of(outcome, &DividedPlan::by_messages).empty());
  EXPECT_TRUE(std::ranges::all_of(pairs_of(outcome, &DividedPlan::by_messages), is_of_rank_2));
}

// Tensors of one rank lie in memory of either kind, as an optimizer makes slots of its own: both
// ends must divide the pair's list alike.
TEST_F(CudaIpcSwitchFailure, TensorsOfOneRankGoEitherWay) {
  FakeIpcWorld world(4);
  std::vector<std::vector<std::byte>> own(4);
  what_.before_map = [&](int rank, DeviceSource& source) {
    std::vector<std::byte>& elsewhere = own[static_cast<std::size_t>(rank)];
    const TensorMemory& memory = source.memory;
    elsewhere.resize(static_cast<std::size_t>(
        std::accumulate(memory.size_bytes.begin(), memory.size_bytes.end(), std::int64_t{0})));
    std::byte* at = elsewhere.data();
    for (std::size_t i = 0; i < source.memory.base.size(); i += 2) {
      if (source.memory.base[i] != nullptr) {
        source.memory.base[i] = at;
        at += source.memory.size_bytes[i];
      }
    }
  };
  const Outcome outcome = what_.run(world, source_, target_);
  expect_arrived(target_, outcome);
  for (const DividedPlan& divided : outcome.divided) {
    for (const PairList& list : divided.in_place.receives) {
      EXPECT_TRUE(std::ranges::all_of(list.moves,
                                      [](const Move& move) { return move.tensor.value % 2 == 1; }));
    }
    for (const PairList& list : divided.by_messages.receives) {
      EXPECT_TRUE(std::ranges::all_of(list.moves,
                                      [](const Move& move) { return move.tensor.value % 2 == 0; }));
    }
  }
  EXPECT_FALSE(pairs_of(outcome, &DividedPlan::in_place).empty());
}

// A reader that has no room to map a peer is sent what it would have read, and no other rank is.
TEST_F(CudaIpcSwitchFailure, RankThatCanOpenNothingIsServedByMessagesAndIsReadAllTheSame) {
  FakeIpcWorld world(4);
  world.machine->refusing.insert(1);
  const Outcome outcome = what_.run(world, source_, target_);
  expect_arrived(target_, outcome);
  EXPECT_NE(outcome.divided[1].problem.find("may open nothing"), std::string::npos);
  const auto is_to_rank_1 = [](const auto& pair) { return pair.second == 1; };
  const auto is_of_rank_1 = [](const auto& pair) { return pair.first == 1; };
  EXPECT_TRUE(std::ranges::none_of(pairs_of(outcome, &DividedPlan::in_place), is_to_rank_1));
  EXPECT_TRUE(std::ranges::any_of(pairs_of(outcome, &DividedPlan::in_place), is_of_rank_1));
  EXPECT_TRUE(std::ranges::all_of(pairs_of(outcome, &DividedPlan::by_messages), is_to_rank_1));
}

// Who maps and runs in one call asks for all of it in place: that it cannot be had is no silence.
TEST_F(CudaIpcSwitchFailure, RunThatMapsByItselfIsRefusedWhereSomeOfItCannotBeRead) {
  FakeIpcWorld world(4);
  what_.map_ahead = false;
  what_.before_map = [&](int rank, DeviceSource& source) {
    if (rank == 2) {
      world.machine->forbid_export(source.segment);
    }
  };
  const Outcome outcome = what_.run(world, source_, target_);
  EXPECT_NE(error_of(outcome, 2).find("cannot be exported"), std::string::npos);
  for (std::size_t rank = 0; rank < 4; ++rank) {
    EXPECT_NE(error_of(outcome, rank), "") << "rank " << rank;
  }
}

// What was mapped ahead and is not read after all must not stay open: its owner frees it all the
// same.
TEST_F(CudaIpcSwitchFailure, RunOverMessagesLetsGoOfWhatWasMappedForIt) {
  FakeIpcWorld world(4);
  what_.allow_one_sided = false;
  what_.frees_source = true;
  const Outcome outcome = what_.run(world, source_, target_);
  EXPECT_GT(world.machine->num_opens, 0);
  EXPECT_EQ(world.machine->num_open(), 0);
  expect_arrived(target_, outcome);
}

// A rank that dies between its publication and its word is named; nobody hangs.
TEST_F(CudaIpcSwitchFailure, RankThatDiesAfterItPublishedIsNamed) {
  FakeIpcWorld world(4);
  what_.before_run = [&](int rank) {
    if (rank == 1) {
      world.loopback.kill(1);
    }
  };
  const Outcome outcome = what_.run(world, source_, target_);
  bool is_named = false;
  for (const std::size_t rank : {0U, 2U, 3U}) {
    EXPECT_NE(error_of(outcome, rank), "");
    is_named = is_named || error_of(outcome, rank).find("rank 1 was killed") != std::string::npos;
  }
  EXPECT_TRUE(is_named);
}

// A rank that lives and never publishes is only seen by the deadline, and must be named by it.
TEST_F(CudaIpcSwitchFailure, RankThatNeverPublishesIsNamedAtTheDeadline) {
  FakeIpcWorld world(4);
  what_.execute.timeout = std::chrono::milliseconds(500);
  what_.before_map = [&](int rank, DeviceSource& /*source*/) {
    if (rank == 1) {
      throw TransportError("this rank was left out", -1, -1, false);
    }
  };
  const Outcome outcome = what_.run(world, source_, target_);
  bool is_named = false;
  for (const std::size_t rank : {0U, 2U, 3U}) {
    EXPECT_NE(error_of(outcome, rank), "");
    is_named = is_named || error_of(outcome, rank).find("rank 1 has not said") != std::string::npos;
  }
  EXPECT_TRUE(is_named);
}

}  // namespace
}  // namespace dynatrain

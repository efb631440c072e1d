// A switch is all or nothing: whatever goes wrong, every rank gets an error within its deadline, no
// source byte has changed, and no thread touches target memory any more (the sanitizers watch).

#include "dynatrain/base/error.hpp"

#include <gtest/gtest.h>

#include "execution/switch_over_loopback.hpp"
#include "execution/tampering_transport.hpp"
#include "execution/wrapped_copier.hpp"
#include <array>
#include <atomic>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

namespace dynatrain {
namespace {

/// Reads other bytes than lie there, wherever a copy with a sum writes what it reads.
class MisreadingCopier final : public WrappedCopier {
 public:
  Token submit(const CopyBatch& batch,
               const AddressTable& addresses,
               std::span<const Token> after) override {
    AddressTable& changed = tables_.emplace_back(addresses);
    for (const CopyDescriptor& copy : batch.copies) {
      if (copy.sum_slot >= 0 && copy.dst.value >= 0) {
        const AddressTable::Region& region = addresses.region(copy.src);
        std::vector<std::byte>& bytes =
            misread_.emplace_back(region.base, region.base + region.size_bytes);
        for (std::byte& byte : bytes) {
          byte ^= std::byte{4};
        }
        changed.set(copy.src, bytes.data(), region.size_bytes);
      }
    }
    return WrappedCopier::submit(batch, changed, after);
  }

 private:
  std::deque<AddressTable> tables_;
  std::deque<std::vector<std::byte>> misread_;
};

class SwitchFailure : public ::testing::Test {
 protected:
  SwitchFailure() {
    what_.schedule.staging_budget_bytes = 32 << 10U;
    what_.schedule.direct_threshold_bytes = 64;
    what_.schedule.min_message_bytes = 1;
    what_.schedule.num_stages_to_overlap = 5;
    what_.execute.timeout = std::chrono::seconds(20);
  }

  /// Lets `before_send` tamper with what `rank` sends.
  void tamper(int rank,
              const std::function<void(LoopbackWorld&, int, std::vector<WireMessage>&)>& how) {
    what_.wrap = [rank, how](std::unique_ptr<Transport> inner,
                             LoopbackWorld& world) -> std::unique_ptr<Transport> {
      if (inner->rank() != rank) {
        return inner;
      }
      return std::make_unique<TamperingTransport>(
          std::move(inner), [how, &world](int batch, std::vector<WireMessage>& messages) {
            how(world, batch, messages);
          });
    };
  }

  void run(const std::function<void(int, LoopbackWorld&, RunControl&)>& on_rank = {}) {
    outcome_ = switch_over_loopback(source_, target_, what_, on_rank);
  }

  /// The TransportError of a rank; fails the test when it ended otherwise.
  TransportError error_of(int rank) {
    try {
      if (outcome_.errors[static_cast<std::size_t>(rank)] != nullptr) {
        std::rethrow_exception(outcome_.errors[static_cast<std::size_t>(rank)]);
      }
      ADD_FAILURE() << "rank " << rank << " ended well";
    } catch (const TransportError& error) {
      return error;
    } catch (const std::exception& error) {
      ADD_FAILURE() << "rank " << rank << " failed with " << error.what();
    }
    return {"none", -2, -2, false};
  }

  void expect_sources_untouched() {
    for (std::size_t i = 0; i < outcome_.source.size(); ++i) {
      EXPECT_TRUE(outcome_.source[i] == tagged_buffers(source_, static_cast<int>(i)))
          << "source of rank " << i;
    }
  }

  ShardMap source_ = model_map(Layout::parse("dp=4"));
  ShardMap target_ = model_map(Layout::parse("dp=2,tp=2"));
  SwitchCase what_;
  SwitchOutcome outcome_;
};

// A process that dies in the middle takes down the switch, never the state of the others.
TEST_F(SwitchFailure, RankKilledInTheMiddleFailsEveryRankAndLeavesSourcesIntact) {
  tamper(2, [](LoopbackWorld& world, int batch, auto&) {
    if (batch == 2) {
      world.kill(2);
    }
  });
  run();
  bool is_named = false;
  for (const int rank : {0, 1, 3}) {
    is_named = is_named || error_of(rank).peer == 2;
  }
  EXPECT_TRUE(is_named);
  EXPECT_GE(error_of(2).stage, 0);
  expect_sources_untouched();
}

// A rank that is stopped, not dead, is only seen by the deadline, and must be named by it.
TEST_F(SwitchFailure, SilentRankEndsTheSwitchAtTheDeadlineAndIsNamed) {
  what_.execute.timeout = std::chrono::milliseconds(300);
  std::atomic<bool> was_silent{false};
  run([&](int rank, LoopbackWorld&, RunControl&) {
    if (rank == 1) {
      was_silent = true;
      throw LoopbackOptions();  // leaves the rank out, without an abort that the others could see
    }
  });
  bool is_named = false;
  for (const int rank : {0, 2, 3}) {
    is_named = is_named || error_of(rank).peer == 1;
  }
  EXPECT_TRUE(was_silent);
  EXPECT_TRUE(is_named);
  expect_sources_untouched();
}

// Bit flips in memory or network reach training silently unless the sums are really compared.
TEST_F(SwitchFailure, DamagedPackedByteIsFoundByTheReceiver) {
  int receiver = -1;
  int stage = -1;
  tamper(3, [&](LoopbackWorld&, int batch, std::vector<WireMessage>& messages) {
    if (batch >= 2 && receiver < 0 && !messages.empty()) {
      messages[0].data[0] ^= std::byte{0x40};  // the first part begins the message
      receiver = messages[0].peer;
      stage = batch - 1;
    }
  });
  what_.schedule.direct_threshold_bytes = 1LL << 20U;
  run();
  ASSERT_GE(receiver, 0) << "no message was sent";
  const TransportError error = error_of(receiver);
  EXPECT_EQ(error.peer, 3);
  EXPECT_EQ(error.stage, stage);
  EXPECT_NE(std::string(error.what()).find("|param' arrived damaged"), std::string::npos)
      << error.what();
  expect_sources_untouched();
}

// Direct messages never meet the copier on their way; only their sums guard them.
TEST_F(SwitchFailure, DamagedDirectByteIsFoundByTheReceiver) {
  source_ = model_map(Layout::parse("pp=4"));
  target_ = model_map(Layout::parse("dp_replicate=4"));
  what_.schedule.num_stages_to_overlap = 2;
  int receiver = -1;
  std::vector<std::byte> damaged;
  tamper(3, [&](LoopbackWorld&, int batch, std::vector<WireMessage>& messages) {
    for (std::size_t i = 1; i < messages.size(); ++i) {
      // The second message to a peer within a stage is a direct one.
      if (batch > 0 && receiver < 0 && messages[i].peer == messages[i - 1].peer) {
        damaged.assign(messages[i].data, messages[i].data + messages[i].size_bytes);
        damaged.back() ^= std::byte{1};
        messages[i].data = damaged.data();
        receiver = messages[i].peer;
      }
    }
  });
  run();
  ASSERT_GE(receiver, 0) << "no direct message was sent";
  const TransportError error = error_of(receiver);
  EXPECT_EQ(error.peer, 3);
  EXPECT_NE(std::string(error.what()).find("arrived damaged"), std::string::npos) << error.what();
  expect_sources_untouched();
}

// A user's Ctrl-C must end a switch that waits for a peer, long before its deadline.
TEST_F(SwitchFailure, CancelEndsARunThatIsBlocked) {
  std::mutex mutex;
  std::vector<std::thread> cancellers;
  run([&](int rank, LoopbackWorld&, RunControl& control) {
    if (rank == 1) {
      throw LoopbackOptions();
    }
    const std::lock_guard lock(mutex);
    cancellers.emplace_back([&control] { control.cancel = true; });
  });
  for (std::thread& canceller : cancellers) {
    canceller.join();
  }
  for (const int rank : {0, 2, 3}) {
    const std::string text = error_of(rank).what();
    EXPECT_NE(text.find("cancelled"), std::string::npos) << text;
  }
  expect_sources_untouched();
}

// Ranks whose layouts differ would write each other's bytes into the wrong tensors.
TEST_F(SwitchFailure, AgreeRefusesListsThatDifferAndShowsBothHashes) {
  LoopbackWorld world(2, {});
  std::array<std::string, 2> errors;
  std::vector<std::thread> threads;
  for (int rank = 0; rank < 2; ++rank) {
    threads.emplace_back([&, rank] {
      const auto transport = world.transport(rank);
      const auto copier = make_cpu_copier(1);
      Executor executor(*transport, *copier, 0);
      Plan plan;
      plan.rank = rank;
      const PairList list{
          .peer = 1 - rank, .moves = {}, .size_bytes = 8, .hash = rank == 0 ? 0xabcULL : 0xdefULL};
      (rank == 0 ? plan.sends : plan.receives).push_back(list);
      try {
        executor.agree(plan, {});
      } catch (const TransportError& error) {
        EXPECT_EQ(error.peer, 1 - rank);
        errors[static_cast<std::size_t>(rank)] = error.what();
      }
    });
  }
  for (std::thread& thread : threads) {
    thread.join();
  }
  for (const std::string& error : errors) {
    EXPECT_NE(error.find("0000000000000abc"), std::string::npos) << error;
    EXPECT_NE(error.find("0000000000000def"), std::string::npos) << error;
  }
}

/// Runs a switch of one rank in which the target buffers are the source buffers.
RunResult run_in_place(const ShardMap& source, const ShardMap& target, RankBuffers& buffers) {
  LoopbackWorld world(1, {});
  const auto transport = world.transport(0);
  const auto copier = make_cpu_copier(1);
  Executor executor(*transport, *copier, 0);
  const Plan plan = make_plan(source, target, 0, {});
  const Schedule schedule = make_schedule(plan, source, target, 1, {});
  RunControl control;
  return executor.run({.plan = plan,
                       .schedule = schedule,
                       .source = source,
                       .target = target,
                       .source_memory = buffers.memory(),
                       .target_memory = buffers.memory()},
                      {},
                      control);
}

// A fragment equal in source and target is kept where it is: no time, no memory, no copy.
std::string text_of(const std::exception_ptr& error) {
  try {
    if (error != nullptr) {
      std::rethrow_exception(error);
    }
  } catch (const std::exception& known) {
    return known.what();
  }
  return "no error";
}

// A peer's memory is read over a link; what arrives must be what its owner holds, element by
// element.
TEST_F(SwitchFailure, BytesMisreadFromAPeerAreFoundByTheReader) {
  what_.loopback.one_sided = true;
  what_.make_copier = [](int rank) -> std::unique_ptr<Copier> {
    return rank == 1 ? std::make_unique<MisreadingCopier>() : make_cpu_copier(1);
  };
  run();
  const TransportError error = error_of(1);
  EXPECT_NE(std::string(error.what()).find("|param' arrived damaged"), std::string::npos)
      << error.what();
  EXPECT_GE(error.peer, 0);
  expect_sources_untouched();
}

// A step of training that failed leaves a source that nobody may take for its result; a run that
// did not come after it would move what was there before.
TEST(CallersStream, RunFailsWithWhatItComesAfterAndWritesNothing) {
  auto step = std::make_shared<HostCompletion>();
  step->fail(std::make_exception_ptr(DeviceError("the optimizer's kernel failed")));
  const ShardMap source = model_map(Layout::parse("dp=4"));
  const ShardMap target = model_map(Layout::parse("dp=2,tp=2"));
  for (const bool one_sided : {false, true}) {
    SwitchCase what;
    what.loopback.one_sided = one_sided;
    what.execute.timeout = std::chrono::seconds(5);
    what.execute.after.emplace_back(step);
    const SwitchOutcome outcome = switch_over_loopback(source, target, what);
    for (std::size_t rank = 0; rank < outcome.target.size(); ++rank) {
      EXPECT_NE(text_of(outcome.errors[rank]).find("kernel failed"), std::string::npos)
          << "rank " << rank << ": " << text_of(outcome.errors[rank]);
      EXPECT_TRUE(outcome.target[rank] == empty_buffers(target, static_cast<int>(rank)));
      EXPECT_TRUE(outcome.source[rank] == tagged_buffers(source, static_cast<int>(rank)));
    }
  }
}

TEST(Adoption, EqualAddressAndViewIsCountedAndNotCopied) {
  const ShardMap map = model_map(Layout::parse("dp=1"));
  RankBuffers buffers = tagged_buffers(map, 0);
  const RunResult result = run_in_place(map, map, buffers);
  EXPECT_EQ(result.adopted_bytes, map.bytes_of_rank(0));
  EXPECT_EQ(first_wrong(map, 0, buffers), "");
}

// Writing a target that lies over its source would destroy what a failure has to fall back on.
TEST(Adoption, TargetOverASourceOfAnotherViewIsRefused) {
  const std::vector<ShardMap::Entry> flat{
      {{"w|param", {8}, {"float32", 4}}, make_replicated_sharding({0})}};
  const Fragment shifted{.box = {{0}, {8}}, .view = {.offset_elems = 0, .strides = {2}}};
  const std::vector<ShardMap::Entry> strided{
      {{"w|param", {8}, {"float32", 4}}, make_table_sharding({{0, {shifted}}})}};
  const ShardMap source(flat);
  const ShardMap target(strided);
  RankBuffers buffers = tagged_buffers(target, 0);
  const RankBuffers before = buffers;
  EXPECT_THROW(run_in_place(source, target, buffers), InternalError);
  EXPECT_TRUE(buffers == before);
}

}  // namespace
}  // namespace dynatrain

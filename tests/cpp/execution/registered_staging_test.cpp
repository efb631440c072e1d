// The whole executor over NCCL's transport, with staging that is registered with the communicator.

#include <gtest/gtest.h>

#include "execution/switch_over_loopback.hpp"
#include "transport/nccl_world.hpp"
#include <algorithm>
#include <string>
#include <utility>
#include <vector>

namespace dynatrain {
namespace {

/// The CPU's copier, to which the fake's device memory is memory like any other.
class CopierOfTheFake final : public Copier {
 public:
  std::unique_ptr<CopierMemory> allocate(std::int64_t size_bytes, Place /*place*/) override {
    return copier_->allocate(size_bytes, Place::kHost);
  }
  void reserve(std::int64_t num_copies, int num_batches) override {
    copier_->reserve(num_copies, num_batches);
  }
  [[nodiscard]] Place place_of(const std::byte* /*memory*/) const override {
    return Place::kDevice;
  }
  Token submit(const CopyBatch& batch,
               const AddressTable& addresses,
               std::span<const Token> after) override {
    return copier_->submit(batch, addresses, after);
  }

 private:
  std::unique_ptr<Copier> copier_ = make_cpu_copier(1);
};

/// A switch whose ranks talk over `world`, in stages small enough that slots are used again.
SwitchCase over(FakeNcclWorld& world) {
  SwitchCase what;
  what.schedule.staging_budget_bytes = 16384;
  what.schedule.min_message_bytes = 1;
  what.execute.timeout = std::chrono::seconds(20);
  what.make_copier = [](int /*rank*/) { return std::make_unique<CopierOfTheFake>(); };
  what.wrap = [&world](std::unique_ptr<Transport> given, LoopbackWorld& /*loopback*/) {
    return std::unique_ptr<Transport>(
        std::move(world.transports[static_cast<std::size_t>(given->rank())]));
  };
  return what;
}

NcclOptions options(bool register_staging) {
  NcclOptions made;
  made.register_staging = register_staging;
  return made;
}

class RegisteredStaging : public ::testing::TestWithParam<bool> {};

// Law 1, with and without: where the staging comes from must not change a bit.
TEST_P(RegisteredStaging, EveryByteArrives) {
  FakeNcclWorld world(4, options(GetParam()));
  const ShardMap source = model_map(Layout::parse("dp=2,tp=2"));
  const ShardMap target = model_map(Layout::parse("tp=4"));
  const SwitchOutcome outcome = switch_over_loopback(source, target, over(world));
  expect_identity(source, target, outcome);
  EXPECT_GT(outcome.schedules[0].stages.size(), 2U);
  for (int rank = 0; rank < 4; ++rank) {
    EXPECT_EQ(world.num_calls(rank, "comm_register"), GetParam() ? 1 : 0);
  }
}

INSTANTIATE_TEST_SUITE_P(Both, RegisteredStaging, ::testing::Bool(), [](const auto& test) {
  return test.param ? "Registered" : "Plain";
});

// The executor goes before or after the transport; NCCL has to see one order.
TEST(RegisteredStagingLife, IsRegisteredOnceAndEndsBeforeTheCommunicator) {
  FakeNcclWorld world(4, options(true));
  const ShardMap source = model_map(Layout::parse("dp=2,tp=2"));
  static_cast<void>(switch_over_loopback(source, model_map(Layout::parse("tp=4")), over(world)));
  for (int rank = 0; rank < 4; ++rank) {
    std::vector<std::string> calls = world.cluster->rank(rank).calls;
    std::erase_if(calls, [](const std::string& name) {
      return !name.starts_with("mem_") && !name.ends_with("register") && name != "comm_finalize";
    });
    EXPECT_EQ(std::ranges::count(calls, "comm_register"), 1);
    EXPECT_EQ(std::ranges::count(calls, "comm_deregister"), 1);
    EXPECT_LT(std::ranges::find(calls, "comm_deregister"), std::ranges::find(calls, "mem_free"));
    EXPECT_LT(std::ranges::find(calls, "comm_deregister"),
              std::ranges::find(calls, "comm_finalize"));
    EXPECT_EQ(world.cluster->rank(rank).faults, std::vector<std::string>());
    EXPECT_TRUE(world.nccl[static_cast<std::size_t>(rank)]->memory.empty());
  }
}

// A rank that dies aborts the others: their staging is freed, and never deregistered.
TEST(RegisteredStagingLife, IsFreedWithoutBeingDeregisteredWhenASwitchFails) {
  FakeNcclWorld world(4, options(true));
  const ShardMap source = model_map(Layout::parse("dp=2,tp=2"));
  const SwitchOutcome outcome =
      switch_over_loopback(source,
                           model_map(Layout::parse("tp=4")),
                           over(world),
                           [&](int rank, LoopbackWorld&, RunControl&) {
                             if (rank == 3) {
                               world.kill(3);
                               throw TransportError("the test says so", -1, -1, false);
                             }
                           });
  for (int rank = 0; rank < 3; ++rank) {
    EXPECT_NE(outcome.errors[static_cast<std::size_t>(rank)], nullptr);
    EXPECT_EQ(world.num_calls(rank, "comm_register"), 1);
    EXPECT_EQ(world.num_calls(rank, "comm_deregister"), 0);
    EXPECT_EQ(world.cluster->rank(rank).faults, std::vector<std::string>());
    EXPECT_TRUE(world.nccl[static_cast<std::size_t>(rank)]->memory.empty());
  }
}

}  // namespace
}  // namespace dynatrain

// Whole switches over the CUDA copier and the NCCL transport, each with its streams: what orders
// them is events alone, so that a wait that is missing is a race which a sanitizer sees.

#include "dynatrain/kernels/cuda_copier.hpp"

#include <gtest/gtest.h>

#include "execution/switch_over_loopback.hpp"
#include "nccl_on_host.hpp"
#include "transport/nccl/transport.hpp"
#include "transport/thread_store.hpp"
#include <chrono>
#include <memory>
#include <string>
#include <utility>

namespace dynatrain {
namespace {

/// Each rank has a device of its own; stages are small enough that slots are used again.
SwitchCase over_nccl(const std::shared_ptr<HostMeeting>& meeting, ThreadStore& store) {
  SwitchCase what;
  what.schedule.staging_budget_bytes = 16384;
  what.schedule.min_message_bytes = 1;
  what.execute.timeout = std::chrono::seconds(60);
  what.make_copier = [](int rank) { return make_cuda_copier({.device = rank}); };
  what.wrap = [meeting, &store](std::unique_ptr<Transport> given, LoopbackWorld& /*loopback*/) {
    const int rank = given->rank();
    NcclOptions options;
    options.device = rank;
    return connect_nccl({.nccl = std::make_shared<NcclOnHost>(meeting, rank),
                         .device = std::make_shared<CudaOnHost>()},
                        {.rank = rank, .size = given->size()},
                        options,
                        store,
                        deadline_in(std::chrono::seconds(60)));
  };
  return what;
}

TEST(SwitchOnHost, EveryByteArrivesWhateverTheLayouts) {
  for (const auto& [before, after] : {std::pair{"dp=2,tp=2", "tp=4"},
                                      std::pair{"tp=4", "dp=4"},
                                      std::pair{"dp=4", "pp=2,dp=2"},
                                      std::pair{"dp=2", "dp=2,tp=2"},
                                      std::pair{"dp=2,tp=2", "dp=1"}}) {
    SCOPED_TRACE(std::string(before) + " to " + after);
    const ShardMap source = model_map(Layout::parse(before));
    const ShardMap target = model_map(Layout::parse(after));
    const auto meeting = std::make_shared<HostMeeting>();
    ThreadStore store;
    const SwitchOutcome outcome = switch_over_loopback(source, target, over_nccl(meeting, store));
    expect_identity(source, target, outcome);
    EXPECT_GT(outcome.schedules[0].stages.size(), 2U);
  }
}

/// A rank's copies are its device's; `one_sided`: it reads its peers in place, else by messages in
/// pinned memory.
SwitchCase over_loopback(bool one_sided) {
  SwitchCase what;
  what.schedule.staging_budget_bytes = 16384;
  what.schedule.min_message_bytes = 1;
  what.loopback.one_sided = one_sided;
  what.make_copier = [](int rank) { return make_cuda_copier({.device = rank}); };
  return what;
}

TEST(SwitchOnHost, EveryByteArrivesThroughPinnedMemoryAndInPlace) {
  const ShardMap source = model_map(Layout::parse("dp=2,tp=2"));
  const ShardMap target = model_map(Layout::parse("pp=2,dp=2"));
  for (const bool one_sided : {false, true}) {
    SCOPED_TRACE(one_sided ? "in place" : "through pinned memory");
    expect_identity(source, target, switch_over_loopback(source, target, over_loopback(one_sided)));
  }
}

// A rank that gives up in the middle: the others end as well, and nothing hangs.
TEST(SwitchOnHost, RankThatIsLostEndsTheSwitchOfTheOthers) {
  const ShardMap source = model_map(Layout::parse("dp=2,tp=2"));
  const ShardMap target = model_map(Layout::parse("tp=4"));
  const auto meeting = std::make_shared<HostMeeting>();
  ThreadStore store;
  SwitchCase what = over_nccl(meeting, store);
  what.execute.timeout = std::chrono::seconds(2);
  const SwitchOutcome outcome =
      switch_over_loopback(source, target, what, [](int rank, LoopbackWorld&, RunControl&) {
        if (rank == 3) {
          throw std::runtime_error("it gives up");
        }
      });
  for (std::size_t rank = 0; rank < 4; ++rank) {
    EXPECT_NE(outcome.errors[rank], nullptr) << "rank " << rank;
    EXPECT_TRUE(outcome.source[rank] == tagged_buffers(source, static_cast<int>(rank)));
  }
}

}  // namespace
}  // namespace dynatrain

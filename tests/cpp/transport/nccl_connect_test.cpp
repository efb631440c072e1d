// How the ranks of a communicator come together, and what is refused before they do.

#include <gtest/gtest.h>

#include "transport/nccl_world.hpp"
#include <string>

namespace dynatrain {
namespace {

/// The communicator of one rank alone.
std::unique_ptr<NcclTransport> connect_alone(FakeNcclWorld& world,
                                             const NcclInit& place,
                                             Deadline deadline) {
  ThreadStore store;
  return connect_nccl(
      {.nccl = world.nccl[0], .device = world.devices[0]}, place, NcclOptions(), store, deadline);
}

// The start of a job in which one process is missing must end, and say where it stood.
TEST(NcclConnect, MissingRankEndsAtTheDeadlineAndTheCommunicatorIsAborted) {
  FakeNcclWorld world(1);
  world.cluster = std::make_shared<FakeCluster>(2);
  world.nccl[0] = std::make_shared<FakeNccl>(world.cluster, 0);
  world.devices[0] = std::make_shared<FakeDevice>(world.cluster, 0);
  const std::string error = error_of([&] {
    static_cast<void>(
        connect_alone(world, {.rank = 0, .size = 2}, deadline_in(std::chrono::milliseconds(20))));
  });
  EXPECT_NE(error.find("reached its deadline"), std::string::npos) << error;
  EXPECT_EQ(world.num_calls(0, "comm_abort"), 1);
}

TEST(NcclConnect, ErrorOfNcclIsInTheMessageAndTheCommunicatorIsAborted) {
  FakeNcclWorld world(1);
  world.nccl[0]->failing["comm_init"] = NcclResult::kInternalError;
  const std::string error =
      error_of([&] { static_cast<void>(connect_alone(world, {.rank = 0, .size = 1}, late())); });
  EXPECT_NE(error.find("the fake's result 3"), std::string::npos) << error;
  EXPECT_EQ(world.num_calls(0, "comm_abort"), 1);
}

// A group that NCCL might cut is a job that might hang, some day, with some plan.
TEST(NcclConnect, OptionsThatLetNcclCutAGroupAreRefused) {
  NcclOptions options;
  options.max_ops_per_group = 4;
  ThreadStore store;
  EXPECT_THROW(static_cast<void>(connect_nccl({}, {.rank = 0, .size = 2}, options, store, late())),
               LayoutError);
}

// 2 * 6 * 21 batches would fit; but NCCL makes 32 of 21 channels, and cuts the group.
TEST(NcclConnect, ChannelsAreCountedAsThePowerOfTwoThatNcclMakesOfThem) {
  NcclOptions options;
  options.max_ops_per_group = 6;
  options.max_channels = 21;
  ThreadStore store;
  EXPECT_THROW(static_cast<void>(connect_nccl({}, {.rank = 0, .size = 2}, options, store, late())),
               LayoutError);
}

// Ranks that cut their messages differently would wait for each other in the middle of a switch.
TEST(NcclConnect, OptionsThatAreNotThoseOfRankZeroAreRefused) {
  const auto cluster = std::make_shared<FakeCluster>(2);
  ThreadStore store;
  const auto error_on = [&](int rank, const NcclOptions& options) {
    return error_of([&] {
      static_cast<void>(connect_nccl({.nccl = std::make_shared<FakeNccl>(cluster, rank),
                                      .device = std::make_shared<FakeDevice>(cluster, rank)},
                                     {.rank = rank, .size = 2},
                                     options,
                                     store,
                                     deadline_in(std::chrono::milliseconds(20))));
    });
  };
  NcclOptions other;
  other.register_staging = true;
  EXPECT_NE(error_on(0, NcclOptions()).find("reached its deadline"), std::string::npos);
  const std::string error = error_on(1, other);
  EXPECT_NE(error.find("on rank 1: max_ops_per_group=3"), std::string::npos) << error;
  EXPECT_NE(error.find("register_staging=1"), std::string::npos) << error;
}

}  // namespace
}  // namespace dynatrain

// Registered staging: memory of NCCL's own, known to the communicator for as long as both live.

#include <gtest/gtest.h>

#include "transport/nccl_world.hpp"
#include "transport/peer_memory/transport.hpp"
#include <algorithm>
#include <array>
#include <chrono>
#include <latch>
#include <memory>
#include <string>
#include <thread>
#include <vector>

namespace dynatrain {
namespace {

NcclOptions registered() {
  NcclOptions options;
  options.register_staging = true;
  return options;
}

class NcclMemory : public ::testing::Test {
 protected:
  /// What rank 0 has called, of these names, in order.
  std::vector<std::string> calls(const std::vector<std::string>& names) {
    const std::lock_guard lock(world_.cluster->mutex);
    std::vector<std::string> found = world_.cluster->rank(0).calls;
    std::erase_if(found, [&](const std::string& name) {
      return std::ranges::find(names, name) == names.end();
    });
    return found;
  }
  std::vector<std::string> faults() { return world_.cluster->rank(0).faults; }

  FakeNcclWorld world_{2, registered()};
  const std::vector<std::string> life_{"mem_alloc",
                                       "comm_register",
                                       "comm_deregister",
                                       "mem_free",
                                       "comm_finalize",
                                       "comm_destroy",
                                       "comm_abort"};
};

// Whoever did not ask gets the copier's memory, as before.
TEST(NcclMemoryOption, IsOffByDefault) {
  FakeNcclWorld world(1);
  EXPECT_EQ(world.rank(0).allocate_messages(4096), nullptr);
  EXPECT_EQ(world.num_calls(0, "mem_alloc"), 0);
}

// A library without the functions is told about before the ranks meet: nobody waits for this one.
TEST(NcclMemoryOption, LibraryWithoutRegistrationIsRefusedBeforeACommunicatorIsMade) {
  FakeNcclWorld world(1);
  world.nccl[0]->no_registration = "it has no ncclMemAlloc";
  ThreadStore store;
  const std::string error = error_of([&] {
    static_cast<void>(connect_nccl({.nccl = world.nccl[0], .device = world.devices[0]},
                                   {.rank = 0, .size = 1},
                                   registered(),
                                   store,
                                   late()));
  });
  EXPECT_NE(error.find("it has no ncclMemAlloc"), std::string::npos) << error;
  EXPECT_EQ(world.num_calls(0, "comm_init"), 1);  // the world's own, not a second one
}

// An empty schedule has no slots; CUDA refuses to make nothing.
TEST_F(NcclMemory, NothingIsNotAllocated) {
  EXPECT_EQ(world_.rank(0).allocate_messages(0), nullptr);
  EXPECT_EQ(calls({"mem_alloc"}), std::vector<std::string>());
}

// Sums are added to what lies there, and a first touch inside a switch would cost time there.
TEST_F(NcclMemory, IsZeroedOnTheDevice) {
  const auto memory = world_.rank(0).allocate_messages(1000);
  EXPECT_TRUE(std::all_of(
      memory->data(), memory->data() + 1000, [](std::byte b) { return b == std::byte{0}; }));
}

// Freeing it would wait for the device, and there is no deadline for that.
TEST_F(NcclMemory, ThatADeviceDoesNotZeroInTimeIsRefusedAndLeftToIt) {
  world_.devices[0]->hangs = true;
  EXPECT_THROW(static_cast<void>(world_.rank(0).allocate_messages(4096)), DeviceError);
  EXPECT_EQ(calls(life_), (std::vector<std::string>{"mem_alloc"}));
}

TEST_F(NcclMemory, ThatIsDroppedWhileTheCommunicatorLivesIsDeregisteredAndThenFreed) {
  auto memory = world_.rank(0).allocate_messages(4096);
  memory.reset();
  EXPECT_EQ(
      calls(life_),
      (std::vector<std::string>{"mem_alloc", "comm_register", "comm_deregister", "mem_free"}));
  EXPECT_EQ(faults(), std::vector<std::string>());
}

// The executor's arena may be the last to go: a script drops its objects in any order.
TEST_F(NcclMemory, ThatOutlivesTheTransportIsDeregisteredBeforeFinalizeAndStaysUsable) {
  auto memory = world_.rank(0).allocate_messages(4096);
  world_.transports.clear();
  EXPECT_EQ(calls(life_),
            (std::vector<std::string>{
                "mem_alloc", "comm_register", "comm_deregister", "comm_finalize", "comm_destroy"}));
  memory->data()[4095] = std::byte{1};
  memory.reset();
  EXPECT_EQ(calls(life_).back(), "mem_free");
  EXPECT_EQ(calls({"comm_deregister"}).size(), 1U);
  EXPECT_EQ(faults(), std::vector<std::string>());
}

// An abort frees the communicator with its registrations: a handle is an address that is gone.
TEST_F(NcclMemory, IsNeitherDeregisteredNorFreedByAnAbortAndFreedAfterIt) {
  auto memory = world_.rank(0).allocate_messages(4096);
  world_.rank(0).abort("enough");
  EXPECT_EQ(calls({"comm_deregister", "mem_free"}), std::vector<std::string>());
  memory.reset();
  EXPECT_EQ(calls({"comm_deregister", "mem_free"}), std::vector<std::string>{"mem_free"});
  EXPECT_EQ(faults(), std::vector<std::string>());
}

// Until ncclCommAbort has returned, its kernels may write, and it unmaps what peers have open.
TEST_F(NcclMemory, IsNotFreedWhileAnAbortOfAnotherThreadRuns) {
  auto memory = world_.rank(0).allocate_messages(4096);
  std::latch is_aborting(1);
  bool was_freed_early = false;
  world_.nccl[0]->while_aborting = [&] {
    is_aborting.count_down();
    // Far less than a release waits for an abort, however busy the machine is.
    const Deadline until = deadline_in(std::chrono::milliseconds(100));
    while (std::chrono::steady_clock::now() < until && !was_freed_early) {
      was_freed_early = world_.num_calls(0, "mem_free") > 0;
      std::this_thread::yield();
    }
  };
  std::thread aborting([&] { world_.rank(0).abort("enough"); });
  is_aborting.wait();
  memory.reset();
  aborting.join();
  EXPECT_FALSE(was_freed_early);
  EXPECT_EQ(calls({"mem_free"}).size(), 1U);
}

// cuda_ipc only forwards messages; without this its staged runs would lose what was asked for.
TEST_F(NcclMemory, IsHandedOutThroughATransportThatForwardsMessages) {
  PeerMemoryTransport forwarding(
      world_.rank(0), std::make_shared<ThreadStore>(), {}, nullptr, nullptr);
  EXPECT_NE(forwarding.allocate_messages(64), nullptr);
}

// A destructor's thread is anybody's.
TEST_F(NcclMemory, IsGivenBackOnTheDeviceOfTheRank) {
  auto memory = world_.rank(0).allocate_messages(4096);
  std::thread([&] { memory.reset(); }).join();
  EXPECT_EQ(world_.cluster->rank(0).off_device, std::vector<std::string>());
}

TEST_F(NcclMemory, RefusedByMemAllocSaysSoAndTheTransportGoesOn) {
  world_.nccl[0]->failing["mem_alloc"] = NcclResult::kInternalError;
  EXPECT_NE(error_of([&] {
              static_cast<void>(world_.rank(0).allocate_messages(4096));
            }).find("ncclMemAlloc refused 4096 bytes"),
            std::string::npos);
  EXPECT_EQ(calls({"comm_register", "mem_free", "comm_abort"}), std::vector<std::string>());
}

TEST_F(NcclMemory, RefusedByRegisterIsFreedAndTheTransportGoesOn) {
  world_.nccl[0]->failing["comm_register"] = NcclResult::kInternalError;
  EXPECT_THROW(static_cast<void>(world_.rank(0).allocate_messages(4096)), DeviceError);
  EXPECT_EQ(calls({"comm_deregister", "mem_free", "comm_abort"}),
            std::vector<std::string>{"mem_free"});
}

// NCCL_LOCAL_REGISTER=0 is a success without a handle: a benchmark would measure plain staging.
TEST_F(NcclMemory, DeclinedRegistrationIsARefusal) {
  world_.nccl[0]->declines_to_register = true;
  EXPECT_NE(error_of([&] {
              static_cast<void>(world_.rank(0).allocate_messages(4096));
            }).find("NCCL_LOCAL_REGISTER"),
            std::string::npos);
  EXPECT_EQ(calls({"mem_free"}).size(), 1U);
}

}  // namespace
}  // namespace dynatrain

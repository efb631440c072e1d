// Transports while memory runs out: the allocations of this program fail one after the other.

#include <gtest/gtest.h>

#include "failing_allocation.hpp"
#include "transport/ipc_world.hpp"
#include "transport/nccl_world.hpp"
#include "transport/peer_memory/peer_wait.hpp"
#include <array>
#include <new>
#include <string>
#include <vector>

namespace dynatrain {
namespace {

using testing::FailingAllocation;

/// Whether `what` found no memory, or met what followed from that.
template <class What>
bool fails(const What& what) {
  try {
    what();
  } catch (const std::bad_alloc&) {
    return true;
  } catch (const Error&) {
    return true;
  }
  return false;
}

/// A message of each direction between two ranks.
struct Pair {
  std::vector<std::byte> sent = std::vector<std::byte>(64);
  std::vector<std::byte> received = std::vector<std::byte>(64);

  [[nodiscard]] ExchangeTokens exchange(Transport& transport) {
    const std::array<WireMessage, 1> sends{
        WireMessage{.peer = 1 - transport.rank(), .tag = 0, .data = sent.data(), .size_bytes = 64}};
    const std::array<WireMessage, 1> receives{WireMessage{
        .peer = 1 - transport.rank(), .tag = 0, .data = received.data(), .size_bytes = 64}};
    return transport.exchange({.sends = sends, .receives = receives}, {}, late());
  }
};

/// What rank 0 holds of the device once its abort, which has a thread of its own, has ended.
int num_events(FakeNcclWorld& world) {
  const Deadline deadline = late();
  while (true) {
    {
      const std::lock_guard lock(world.cluster->mutex);
      if (world.devices[0]->num_events == 0 || std::chrono::steady_clock::now() >= deadline) {
        return world.devices[0]->num_events;
      }
    }
    std::this_thread::yield();
  }
}

struct Outcome {
  bool is_refused = false;  ///< the exchange had an error
  bool has_failed = false;  ///< an allocation did
  std::string still_held;   ///< in words
};

/// An exchange of rank 0 with a living rank, in which one allocation fails behind `num_good`.
Outcome exchange_with(std::int64_t num_good) {
  FakeNcclWorld world(2);
  Pair first;
  Pair second;
  Outcome outcome;
  const ExchangeTokens of_peer = second.exchange(world.rank(1));
  {
    const FailingAllocation failing(num_good);
    outcome.is_refused = fails([&] { first.exchange(world.rank(0)).sent.wait(late()); });
    outcome.has_failed = FailingAllocation::has_failed();
  }
  if (outcome.is_refused && !world.cluster->rank(0).stream.empty()) {
    outcome.still_held = "messages";
  }
  world.rank(1).abort("the test is over");
  static_cast<void>(fails([&] { of_peer.sent.wait(late()); }));
  world.transports.clear();
  if (num_events(world) != 0) {
    outcome.still_held += " events";
  }
  return outcome;
}

// An exchange whose error has been told has let go of its messages, whose memory is another's then;
// and it keeps no event of the device for ever.
TEST(NcclAllocations, ExchangeThatFindsNoMemoryLetsGoOfItsMessages) {
  Outcome last;
  int num_refused = 0;
  std::int64_t num_good = 0;
  do {
    last = exchange_with(num_good++);
    num_refused += last.is_refused ? 1 : 0;
    EXPECT_EQ(last.still_held, "") << num_good;
  } while (last.has_failed);
  EXPECT_GT(num_refused, 5);
}

// abort() must get through whatever there is, and closing ends what is under way.
TEST(NcclAllocations, AbortAndCloseNeedNoMemory) {
  FakeNcclWorld world(2);
  Pair messages;
  const ExchangeTokens tokens = messages.exchange(world.rank(0));
  const std::string reason(100, 'x');
  {
    const FailingAllocation failing(0);
    world.rank(0).abort(reason);
  }

  EXPECT_THROW(tokens.sent.wait(late()), TransportError);
}

// Memory of a peer that stays mapped can never be unmapped: nobody knows its address.
TEST(PeerMemoryAllocations, MapThatFindsNoMemoryLeavesNothingOpen) {
  for (const IpcKind kind : {IpcKind::kHandle, IpcKind::kFile}) {
    bool is_refused = true;
    for (std::int64_t num_good = 0; is_refused; ++num_good) {
      FakeIpcWorld world(2);
      const std::byte* const memory = world.machine->allocate(0, kind, 4096);
      const std::array<ExposedBuffer, 1> exposed{
          ExposedBuffer{.buffer = BufferId(1), .base = memory, .size_bytes = 4096}};
      world.side(0).publish(exposed);
      world.side(1).publish({});
      {
        const FailingAllocation failing(num_good);
        is_refused = fails([&] { static_cast<void>(world.side(1).map(0, BufferId(1), late())); });
      }
      EXPECT_EQ(world.machine->num_open(), is_refused ? 0 : 1) << num_good;
      world.side(1).release();
      world.side(0).withdraw();
    }
  }
}

// A rank that is aborted without memory for the reason is aborted all the same.
TEST(PeerMemoryAllocations, AbortNeedsNoMemory) {
  AbortFlag aborted;
  const std::string reason(100, 'x');
  {
    const FailingAllocation failing(0, 10);
    aborted.raise(reason);
  }

  EXPECT_THROW(aborted.check(), TransportError);
}

}  // namespace
}  // namespace dynatrain

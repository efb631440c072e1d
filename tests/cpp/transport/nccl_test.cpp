#include "dynatrain/base/device_completion.hpp"

#include "transport/nccl_world.hpp"
#include "transport/transport_conformance.hpp"
#include <array>
#include <future>
#include <latch>
#include <string>
#include <thread>
#include <vector>

namespace dynatrain {
namespace {

class NcclTestWorld final : public TransportWorld {
 public:
  explicit NcclTestWorld(int num_ranks) : world_(num_ranks) {}
  [[nodiscard]] Transport& rank(int rank) override { return world_.rank(rank); }
  void kill(int rank) override { world_.kill(rank); }

 private:
  FakeNcclWorld world_;
};

INSTANTIATE_TEST_SUITE_P(
    Nccl,
    TransportConformance,
    ::testing::Values(TransportCase{
        .name = "fake",
        .make = [](int num_ranks) { return std::make_unique<NcclTestWorld>(num_ranks); },
        .compares_sizes = false}),
    [](const auto& test) { return test.param.name; });

using Bytes = std::vector<std::byte>;

WireMessage message(int peer, Bytes& bytes) {
  return {.peer = peer,
          .tag = 0,
          .data = bytes.data(),
          .size_bytes = static_cast<std::int64_t>(bytes.size())};
}

class NcclOrder : public ::testing::Test {
 protected:
  Token send(FakeNcclWorld& world, std::span<const Token> after = {}, Deadline deadline = late()) {
    return world.rank(0).submit_sends(std::array{message(1, sent_)}, after, deadline);
  }
  Token receive(FakeNcclWorld& world, Deadline deadline = late()) {
    return world.rank(1).submit_receives(std::array{message(0, received_)}, {}, deadline);
  }

  Bytes sent_ = Bytes(64, std::byte{7});
  Bytes received_ = Bytes(64);
};

// An event recorded while NCCL is still at work is recorded before the kernel: the token would say
// that bytes have arrived which nobody has sent.
TEST_F(NcclOrder, EventIsRecordedBehindAGroupThatNcclIssuesLate) {
  FakeNcclWorld world(2);
  world.cluster->num_polls_per_group = 3;
  const Token arrival = receive(world);
  EXPECT_FALSE(arrival.done());
  const Token departure = send(world);
  arrival.wait(late());
  departure.wait(late());
  EXPECT_EQ(received_, sent_);
}

/// What a copier on the device returns.
class PendingKernel final : public DeviceCompletion {
 public:
  explicit PendingKernel(std::shared_ptr<FakeDevice> device) : device_(std::move(device)) {}

  [[nodiscard]] bool done() const override { return !kernel.is_pending; }
  void wait(Deadline /*deadline*/) override { ADD_FAILURE() << "the host waited for the device"; }
  [[nodiscard]] bool is_on_stream() const override { return true; }
  void order_before(void* stream) override { device_->stream_wait(stream, &kernel); }

  FakeEvent kernel{.is_pending = true};

 private:
  std::shared_ptr<FakeDevice> device_;
};

// The host would be idle for as long as packing takes, stage after stage.
TEST_F(NcclOrder, SendWaitsForAKernelOnTheDeviceNotOnTheHost) {
  FakeNcclWorld world(2);
  const auto packing = std::make_shared<PendingKernel>(world.devices[0]);
  const Token arrival = receive(world);
  const Token departure = send(world, std::array{Token(packing)});
  EXPECT_FALSE(arrival.done());
  sent_.assign(64, std::byte{9});
  packing->kernel.is_pending = false;
  arrival.wait(late());
  departure.wait(late());
  EXPECT_EQ(received_, Bytes(64, std::byte{9}));
}

// A copier on the device has to find something to wait for.
TEST_F(NcclOrder, StreamsAreOrderedBehindTheLastEventOfAnExchange) {
  FakeNcclWorld world(2);
  const Token arrival = receive(world);
  DeviceCompletion* const on_device = on_stream(arrival);
  ASSERT_NE(on_device, nullptr);
  on_device->order_before(nullptr);
  const FakeCluster::Item waits = world.cluster->rank(1).stream.back();
  EXPECT_EQ(waits.kind, FakeCluster::Item::Kind::kWait);
  EXPECT_TRUE(waits.event->is_pending);
  send(world).wait(late());
  EXPECT_FALSE(waits.event->is_pending);
}

// A thread that began a group and never ended it would post everything later into that group.
TEST_F(NcclOrder, GroupIsEndedAndTheCommunicatorAbortedWhenASendFails) {
  FakeNcclWorld world(2);
  world.nccl[0]->failing["send"] = NcclResult::kInternalError;
  const Token departure = send(world);
  EXPECT_NE(error_of([&] { departure.wait(late()); }).find("ncclSend or ncclRecv failed"),
            std::string::npos);
  EXPECT_EQ(world.num_calls(0, "group_end"), 1);
  EXPECT_EQ(world.num_calls(0, "comm_abort"), 1);
}

// The monitor looks every few milliseconds; a look must not end the run.
TEST_F(NcclOrder, ShortWaitEndsWithoutAnAbort) {
  FakeNcclWorld world(2);
  const Token arrival = receive(world);
  EXPECT_THROW(arrival.wait(deadline_in(std::chrono::milliseconds(1))), TransportError);
  EXPECT_EQ(world.num_calls(1, "comm_abort"), 0);
  send(world).wait(late());
  arrival.wait(late());
  EXPECT_EQ(received_, sent_);
}

// An abort ends kernels too; what they left behind is not what was sent.
TEST_F(NcclOrder, AbortedExchangeIsNeverTakenForAGoodOne) {
  FakeNcclWorld world(2);
  const Token arrival = receive(world);
  world.rank(1).abort("enough");
  EXPECT_TRUE(arrival.done());
  EXPECT_THROW(arrival.wait(late()), TransportError);
}

// What has arrived stays arrived: a later failure must not take back a finished stage.
TEST_F(NcclOrder, ExchangeThatHasEndedStaysGoodAfterAnAbort) {
  FakeNcclWorld world(2);
  const Token arrival = receive(world);
  send(world).wait(late());
  EXPECT_TRUE(arrival.done());
  world.rank(1).abort("enough");
  EXPECT_NO_THROW(arrival.wait(late()));
}

// A lost device can end nothing; its tokens must not be waited for until the deadline.
TEST_F(NcclOrder, LostDeviceEndsTheTokenWithItsError) {
  FakeNcclWorld world(2);
  const Token arrival = receive(world);
  world.devices[1]->is_lost = true;
  EXPECT_NE(error_of([&] { arrival.wait(late()); }).find("the device is lost"), std::string::npos);
}

// A receive that is stuck behind others is named by the group that has not ended, not by the last.
TEST_F(NcclOrder, DeadlineNamesThePeerOfTheFirstGroupThatIsStuck) {
  NcclOptions options;
  options.max_ops_per_group = 1;
  FakeNcclWorld world(4, options);
  Bytes second(64);
  Bytes third(64);
  const std::array receives{message(1, received_), message(2, second), message(3, third)};
  const Token arrival =
      world.rank(0).submit_receives(receives, {}, deadline_in(std::chrono::milliseconds(30)));
  const Token departure = world.rank(1).submit_sends(std::array{message(0, sent_)}, {}, late());
  departure.wait(late());
  try {
    arrival.wait(late());
    FAIL() << "it ended well";
  } catch (const TransportError& error) {
    EXPECT_EQ(error.peer, 2);
  }
}

// Finalize delivers what a finished send has only handed to the network; abort would drop it.
TEST(NcclClose, IdleCommunicatorIsFinalizedAndABusyOneAborted) {
  FakeNcclWorld world(2);
  Bytes bytes(8);
  const Token arrival = world.rank(1).submit_receives(std::array{message(0, bytes)}, {}, late());
  world.transports[0] = nullptr;
  world.transports[1] = nullptr;
  EXPECT_EQ(world.num_calls(0, "comm_finalize"), 1);
  EXPECT_EQ(world.num_calls(0, "comm_destroy"), 1);
  EXPECT_EQ(world.num_calls(0, "comm_abort"), 0);
  EXPECT_EQ(world.num_calls(1, "comm_abort"), 1);
  EXPECT_THROW(arrival.wait(late()), TransportError);
}

/// Runs `what` in a thread that has no device yet, as a monitor's or a destructor's may be.
template <class What>
void in_a_thread_of_its_own(What what) {
  std::thread(std::move(what)).join();
}

// NCCL and CUDA's runtime work on the thread's device: a thread that has none would get a context
// of half a gigabyte on device 0, on every rank of the host.
TEST_F(NcclOrder, EveryCallIsMadeOnTheDeviceOfTheRank) {
  FakeNcclWorld world(2);
  Token arrival;
  in_a_thread_of_its_own([&] { arrival = receive(world); });
  in_a_thread_of_its_own([&] { EXPECT_FALSE(arrival.done()); });
  in_a_thread_of_its_own([&] { send(world).wait(late()); });
  in_a_thread_of_its_own([&] { world.rank(1).abort("enough"); });
  in_a_thread_of_its_own([&] { EXPECT_TRUE(arrival.done()); });
  arrival = Token();
  in_a_thread_of_its_own([&] { world.transports.clear(); });
  for (const int rank : {0, 1}) {
    EXPECT_EQ(world.cluster->rank(rank).off_device, std::vector<std::string>()) << "rank " << rank;
  }
}

// Whose abort it is does not matter: while it runs, a kernel that nobody recorded an event behind
// may still write into memory that the caller frees as soon as the token says so.
TEST_F(NcclOrder, TokenOfAGroupWithoutAnEventEndsWithTheAbortOfAnotherThread) {
  FakeNcclWorld world(2);
  world.cluster->num_polls_per_group = 1 << 30;  // NCCL has the group, and no event is behind it
  std::latch is_aborting(1);
  std::latch may_end(1);
  world.nccl[1]->while_aborting = [&] {
    is_aborting.count_down();
    may_end.wait();
  };
  std::future<Token> posting = std::async(std::launch::async, [&] { return receive(world); });
  while (world.num_calls(1, "group_end") == 0) {
    std::this_thread::yield();
  }
  std::thread aborting([&] { world.rank(1).abort("enough"); });
  is_aborting.wait();
  const Token arrival = posting.get();
  EXPECT_FALSE(arrival.done());
  may_end.count_down();
  aborting.join();
  EXPECT_TRUE(arrival.done());
  EXPECT_THROW(arrival.wait(late()), TransportError);
}

// NCCL's abort knows no deadline. Who calls it goes on, and what may still be written is not done.
TEST_F(NcclOrder, AbortThatNeverReturnsHoldsUpNobody) {
  NcclOptions options;
  options.end_timeout = std::chrono::milliseconds(20);
  FakeNcclWorld world(2, options);
  std::latch may_end(1);
  world.nccl[1]->while_aborting = [&] { may_end.wait(); };
  Token arrival = receive(world);
  world.rank(1).abort("enough");
  EXPECT_FALSE(arrival.done());
  EXPECT_THROW(arrival.wait(deadline_in(std::chrono::milliseconds(1))), TransportError);
  arrival = Token();
  world.transports.clear();
  const auto num_events = [&] {
    const std::lock_guard lock(world.cluster->mutex);
    return world.devices[1]->num_events;
  };
  EXPECT_EQ(num_events(), 1) << "the abort still has one of them";
  may_end.count_down();
  while (num_events() > 0) {
    std::this_thread::yield();
  }
}

// CUDA takes some thousand operations of a stream that stands, and then blocks whoever adds one:
// a thread that cannot see its deadline, or holds the lock that an abort needs.
TEST_F(NcclOrder, StreamThatStandsIsNotFilledAndThePostEndsAtItsDeadline) {
  NcclOptions options;
  options.max_ops_per_group = 1;
  options.piece_bytes = 1;
  FakeNcclWorld world(2, options);
  received_.resize(1000);
  const Token arrival = receive(world, deadline_in(std::chrono::milliseconds(100)));
  EXPECT_LE(world.cluster->rank(1).longest_stream, 300U);
  try {
    arrival.wait(late());
    FAIL() << "it ended well";
  } catch (const TransportError& error) {
    EXPECT_EQ(error.peer, 0);
    EXPECT_NE(std::string(error.what()).find("deadline"), std::string::npos) << error.what();
  }
}

// The bound must not cost a message: what does not fit at once goes when there is room.
TEST_F(NcclOrder, ExchangeOfMoreGroupsThanMayBeUnderWayArrivesWhole) {
  NcclOptions options;
  options.max_ops_per_group = 1;
  options.piece_bytes = 1;
  FakeNcclWorld world(2, options);
  sent_.assign(1000, std::byte{3});
  received_.resize(1000);
  std::future<Token> arriving = std::async(std::launch::async, [&] { return receive(world); });
  send(world).wait(late());
  arriving.get().wait(late());
  EXPECT_EQ(received_, sent_);
}

// A job that switches for a month makes many transports.
TEST_F(NcclOrder, EventsGoWithTheTransport) {
  FakeNcclWorld world(2);
  {
    const Token arrival = receive(world);
    const Token departure = send(world);
    arrival.wait(late());
    departure.wait(late());
  }
  EXPECT_GT(world.devices[0]->num_events, 0);
  world.transports.clear();
  EXPECT_EQ(world.devices[0]->num_events, 0);
  EXPECT_EQ(world.devices[1]->num_events, 0);
}

// A destroyed handle is NCCL's: a second call on it is a use of memory that was freed.
TEST(NcclClose, CommunicatorThatWasDestroyedIsNotAbortedAsWell) {
  FakeNcclWorld world(1);
  world.nccl[0]->failing["comm_destroy"] = NcclResult::kInternalError;
  world.transports.clear();
  EXPECT_EQ(world.num_calls(0, "comm_destroy"), 1);
  EXPECT_EQ(world.num_calls(0, "comm_abort"), 0);
}

// A token that nobody looked at before the transport went is as good as one that somebody did.
TEST_F(NcclOrder, ExchangeThatHadEndedIsGoodAfterThePeacefulEndOfTheTransport) {
  FakeNcclWorld world(2);
  const Token arrival = receive(world);
  const Token departure = send(world);
  world.transports.clear();
  EXPECT_EQ(world.num_calls(1, "comm_abort"), 0);
  EXPECT_NO_THROW(arrival.wait(late()));
  EXPECT_NO_THROW(departure.wait(late()));
}

// No kernel can read it: NCCL would take the process down, or hang.
TEST_F(NcclOrder, HostMemoryIsRefused) {
  FakeNcclWorld world(2);
  world.devices[0]->host_memory = {sent_.data()};
  const Token departure = send(world);
  EXPECT_NE(error_of([&] { departure.wait(late()); }).find("lies in host memory"),
            std::string::npos);
  EXPECT_EQ(world.num_calls(0, "send"), 0);
}

// NCCL allows a rank to send to itself when both ends are in one group.
TEST(NcclSelf, WorldOfOneSendsToItself) {
  FakeNcclWorld world(1);
  Bytes sent(100, std::byte{5});
  Bytes received(100);
  const ExchangeTokens tokens = world.rank(0).exchange(
      {.sends = std::array{message(0, sent)}, .receives = std::array{message(0, received)}},
      {},
      late());
  tokens.received.wait(late());
  EXPECT_EQ(received, sent);
}

// Both functions exist in every build, so that `doctor` can ask.
TEST(NcclLibrary, ReportSaysWhatThereIsOrWhatIsMissing) {
  const NcclReport report = nccl_report();
  EXPECT_EQ(report.problem, nccl_problem());
  EXPECT_EQ(report.version, nccl_version());
  EXPECT_TRUE(!report.problem.empty() || !report.version.empty());
}

}  // namespace
}  // namespace dynatrain

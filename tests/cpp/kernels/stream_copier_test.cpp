// The copier of a device with streams, without a GPU: streams are threads, the kernel runs on them.

#include "kernels/cuda/stream_copier.hpp"

#include "dynatrain/base/device_completion.hpp"
#include "dynatrain/base/error.hpp"

#include <gtest/gtest.h>

#include "kernels/copier_conformance.hpp"
#include "kernels/preparing_copier.hpp"
#include "kernels/stream_copier_fixture.hpp"

namespace dynatrain {
namespace {

std::unique_ptr<Copier> make_emulated(bool adds_to_host) {
  auto state = std::make_shared<EmulatedState>();
  state->adds_to_host = adds_to_host;
  return std::make_unique<StreamCopier>(std::make_unique<EmulatedDevice>(state));
}

std::unique_ptr<Copier> make_prepared(bool adds_to_host) {
  return std::make_unique<PreparingCopier>(make_emulated(adds_to_host));
}

INSTANTIATE_TEST_SUITE_P(
    Emulated,
    CopierConformance,
    ::testing::Values(
        CopierCase{.name = "sums_fetched", .make = [] { return make_emulated(false); }},
        CopierCase{.name = "sums_in_place", .make = [] { return make_emulated(true); }},
        CopierCase{.name = "prepared_sums_fetched", .make = [] { return make_prepared(false); }},
        CopierCase{.name = "prepared_sums_in_place", .make = [] { return make_prepared(true); }}),
    [](const auto& test) { return test.param.name; });

/// An event of another owner's stream that the test sets.
class ForeignEvent final : public DeviceCompletion {
 public:
  [[nodiscard]] bool done() const override { return ended_->done(); }
  void wait(Deadline deadline) override { ended_->wait(deadline); }
  [[nodiscard]] bool is_on_stream() const override { return true; }
  void order_before(void* stream) override {
    ++num_orders;
    static_cast<EmulatedStream*>(stream)->add(
        [ended = ended_] { ended->wait(deadline_in(std::chrono::seconds(60))); });
  }
  void set() { ended_->set(); }

  std::atomic<int> num_orders = 0;  ///< how many streams were ordered behind it

 private:
  std::shared_ptr<HostCompletion> ended_ = std::make_shared<HostCompletion>();
};

// The design's rule: a token of a stream orders streams, and no host thread waits for it.
TEST_F(StreamCopierOrder, EventOfAnotherStreamIsWaitedForByTheStream) {
  auto event = std::make_shared<ForeignEvent>();
  const std::array after{Token(event)};
  const Token token = submit(after);
  EXPECT_EQ(event->num_orders, 1);
  EXPECT_EQ(state_->num_launches, 1);
  EXPECT_FALSE(token.done());
  event->set();
  token.wait(late());
  EXPECT_TRUE(has_arrived(0));
}

// Unpack k waits for wire k; pack k + 1 behind it on one stream would make the wire idle.
TEST_F(StreamCopierOrder, BatchesBehindEventsHoldUpNobodyElse) {
  std::vector<std::shared_ptr<ForeignEvent>> events;
  std::vector<Token> waiting;
  for (int i = 0; i < 10; ++i) {
    events.push_back(std::make_shared<ForeignEvent>());
    const std::array after{Token(events.back())};
    waiting.push_back(submit(after));
  }
  submit().wait(late());
  // The last one first: none may stand behind another's wait.
  for (std::size_t i = events.size(); i-- > 3;) {
    events[i]->set();
  }
  EXPECT_TRUE(std::none_of(waiting.begin(), waiting.begin() + 3, [](auto& t) { return t.done(); }));
  for (std::size_t i = 3; i-- > 0;) {
    events[i]->set();
    waiting[i].wait(late());
  }
  wait_all(waiting, late());
}

// A batch that has not been launched has no event; who orders a stream behind it would wait for
// none.
TEST_F(StreamCopierOrder, BatchThatWaitsOnTheHostIsNotOnAStream) {
  auto arrival = std::make_shared<HostCompletion>();
  const std::array after{Token(arrival)};
  const Token token = submit(after);
  auto& event = dynamic_cast<DeviceCompletion&>(*token.completion());
  EXPECT_FALSE(event.is_on_stream());
  EXPECT_THROW(event.order_before(nullptr), InternalError);
  arrival->set();
  token.wait(late());
  EXPECT_TRUE(event.is_on_stream());
}

// Every wait has a deadline, and passing it changes nothing.
TEST_F(StreamCopierOrder, WaitEndsAtItsDeadlineAndTheBatchGoesOn) {
  state_->is_held = true;
  const Token token = submit();
  EXPECT_THROW(token.wait(deadline_in(std::chrono::milliseconds(5))), TransportError);
  EXPECT_FALSE(token.done());
  state_->is_held = false;
  token.wait(late());
  EXPECT_TRUE(has_arrived(0));
}

// A sticky CUDA error is found at a launch or at an event; either way it is the token's error.
TEST_F(StreamCopierOrder, FailedLaunchIsTheBatchsFailure) {
  state_->launches_fail = true;
  const Token token = submit();
  EXPECT_THROW(token.wait(late()), DeviceError);
}

// What was put on the stream before the failure still writes; nobody may free its memory yet, and
// nobody may go on behind it as if it had ended well.
TEST_F(StreamCopierOrder, BatchThatFailsWhenItIsPartlyOnTheStreamEndsBehindIt) {
  state_->is_held = true;
  state_->launches_fail_late = true;
  const Token token = submit();
  state_->launches_fail_late = false;
  EXPECT_FALSE(token.done());
  const Token behind = submit(std::array{token});
  EXPECT_EQ(state_->num_launches, 1);
  state_->is_held = false;
  EXPECT_THROW(token.wait(late()), DeviceError);
  EXPECT_EQ(state_->num_ended, 1);
  EXPECT_THROW(behind.wait(late()), DeviceError);
  EXPECT_EQ(state_->num_launches, 1);
}

TEST_F(StreamCopierOrder, FailedEventIsTheFailureOfAllThatComesAfter) {
  auto arrival = std::make_shared<HostCompletion>();
  state_->is_held = true;  // so that nobody sees the first one end well
  const Token first = submit();
  const std::array after{first, Token(arrival)};
  const Token second = submit(after);
  state_->events_fail = true;
  EXPECT_THROW(first.wait(late()), DeviceError);
  arrival->set();
  EXPECT_THROW(second.wait(late()), DeviceError);
  state_->is_held = false;
}

// Taking memory stops a device; what was reserved is enough for batches that wait and that run.
TEST_F(StreamCopierOrder, ReservedBatchesTakeNoMemory) {
  const CopyDescriptor copy = batch_.copies[0];
  batch_.copies.assign(500, copy);
  for (CopyDescriptor& wide : batch_.copies) {
    wide.copy = {.extents = {2, 2, 2, 1},
                 .src_offset_elems = 0,
                 .dst_offset_elems = 0,
                 .src_strides = {4, 2, 1, 1},
                 .dst_strides = {1, 2, 4, 1}};
    wide.sum_slot = 0;
  }
  std::uint64_t sum = 0;
  batch_.sums = &sum;
  copier_->reserve(500, 6);
  const int num_memories = state_->num_memories;
  state_->is_held = true;
  std::vector<Token> tokens;
  for (int i = 0; i < 6; ++i) {
    tokens.push_back(submit());
  }
  EXPECT_EQ(state_->num_memories, num_memories);
  state_->is_held = false;
  wait_all(tokens, late());
  copier_->reserve(500, 6);
  EXPECT_EQ(state_->num_memories, num_memories) << "what is there was reserved again";
}

// An event that fails does not stop what is on the stream: it still reads its table.
TEST_F(StreamCopierOrder, TableOfAFailedBatchOutlivesItsTokenAndTheDevice) {
  state_->is_held = true;
  {
    const Token token = submit();
    state_->events_fail = true;
    EXPECT_THROW(token.wait(late()), DeviceError);
  }
  EXPECT_EQ(state_->num_freed_memories, 0);
  state_->is_held = false;
  copier_.reset();
  EXPECT_EQ(state_->num_ended, state_->num_launches);
  EXPECT_EQ(state_->num_freed_memories, state_->num_memories);
}

// A stream that never ends: its memory cannot be had back, but the wait for it ends.
TEST_F(StreamCopierOrder, DrainThatRunsOutOfTimeFreesNothing) {
  state_->is_held = true;
  CopyLanes lanes(std::make_unique<EmulatedDevice>(state_));
  auto batch = std::make_shared<LaneBatch>();
  BoxTableBuilder builder(TableOptions{});
  batch->parts.size = builder.build(batch_, addresses_);
  batch->memory = lanes.take_memory(batch->parts.size.layout.total_bytes);
  builder.write(batch->memory->host(), false);
  ASSERT_TRUE(lanes.launch(batch, {}));
  lanes.drain(deadline_in(std::chrono::milliseconds(1)));
  EXPECT_THROW(lanes.check(*batch), DeviceError);
  batch.reset();
  EXPECT_EQ(state_->num_freed_memories, 0);
  state_->is_held = false;
}

// The hot path allocates nothing: memory and events are used again behind the batch that had them.
TEST_F(StreamCopierOrder, TablesAndEventsAreUsedAgain) {
  CopyTimes times;
  batch_.times = &times;
  for (int i = 0; i < 100; ++i) {
    submit().wait(late());
  }
  EXPECT_EQ(state_->num_memories, 1);
  EXPECT_EQ(state_->num_events, 2);
}

// Switches that grow do not leave the tables of all smaller ones behind.
TEST_F(StreamCopierOrder, LargerTableTakesThePlaceOfASmallerOne) {
  CopyLanes lanes(std::make_unique<EmulatedDevice>(state_));
  constexpr std::int64_t megabyte = std::int64_t{1} << 20;
  for (const std::int64_t size_bytes : {5 * megabyte, 7 * megabyte, megabyte, 7 * megabyte - 1}) {
    EXPECT_GE(lanes.take_memory(size_bytes)->size_bytes(), size_bytes);
  }
  EXPECT_EQ(state_->num_memories, 2);
  EXPECT_EQ(state_->num_freed_memories, 1);
}

// While a table is on its stream nobody else may write to it.
TEST_F(StreamCopierOrder, TableInUseIsNotGivenToTheNextBatch) {
  state_->is_held = true;
  const Token first = submit();
  const Token second = submit();
  EXPECT_EQ(state_->num_memories, 2);
  state_->is_held = false;
  wait_all(std::array{first, second}, late());
}

// Times and sums of a batch are there as soon as anybody knows that it is done, if only from a
// batch that came after it.
TEST_F(StreamCopierOrder, EndOfALaterBatchEndsTheEarlierOnesOfItsStream) {
  CopyBatch first = batch_;
  std::array<std::uint64_t, 1> sums{};
  CopyTimes times;
  first.copies[0].sum_slot = 0;
  first.sums = sums.data();
  first.times = &times;
  const Token earlier = copier_->submit(first, addresses_, {});
  const std::array after{earlier};
  submit(after).wait(late());
  EXPECT_NE(sums[0], 0U);
  EXPECT_LT(times.begin, times.end);
  EXPECT_EQ(times.stream, 0) << "it waited for nothing";
}

// Spans of a stage without copies have no length.
TEST_F(StreamCopierOrder, EmptyBatchHasEqualTimes) {
  CopyTimes times;
  CopyBatch empty;
  empty.times = &times;
  copier_->submit(empty, addresses_, {}).wait(late());
  EXPECT_EQ(times.begin, times.end);
  EXPECT_NE(times.begin, CopyTimes().begin);
  EXPECT_EQ(state_->num_launches, 0);
}

// A copier may go while a batch still waits for a peer that never came; nobody may hang on it.
TEST_F(StreamCopierOrder, DestructionFailsWhatWaitsAndEndsWhatRuns) {
  const std::array never{Token(std::make_shared<HostCompletion>())};
  const Token waiting = submit(never);
  const Token running = submit();
  copier_.reset();
  EXPECT_THROW(waiting.wait(late()), InternalError);
  EXPECT_TRUE(running.done());
  running.wait(late());
  EXPECT_TRUE(has_arrived(1));
}

}  // namespace
}  // namespace dynatrain

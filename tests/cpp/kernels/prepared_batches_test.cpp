// Batches whose tables lie on the device before they are submitted, without a GPU.

#include "dynatrain/base/error.hpp"

#include <gtest/gtest.h>

#include "kernels/stream_copier_fixture.hpp"
#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <iterator>
#include <memory>
#include <span>
#include <vector>

namespace dynatrain {
namespace {

/// Batches that were prepared before anything was submitted.
class PreparedBatches : public StreamCopierOrder {
 protected:
  void SetUp() override {
    StreamCopierOrder::SetUp();
    batch_.copies[0].sum_slot = 0;
    batch_.sums = &sum_;
    for (int i = 0; i < 2; ++i) {
      batches_.emplace_back(batch_);
      batches_.back().copies[0].copy.dst_offset_elems = std::int64_t{8} * i;
    }
    const std::vector<std::shared_ptr<PreparedBatch>> prepared =
        copier_->prepare(std::vector<const CopyBatch*>{batches_.data(), &batches_[1]}, addresses_);
    for (std::size_t i = 0; i < prepared.size(); ++i) {
      batches_[i].prepared = prepared[i];
    }
  }
  Token submit_prepared(std::size_t i, std::span<const Token> after = {}) {
    return copier_->submit(batches_[i], addresses_, after);
  }

  std::shared_ptr<PreparedBatch> prepare_another() {
    return copier_->prepare(std::vector<const CopyBatch*>{batches_.data()}, addresses_)[0];
  }

  std::vector<CopyBatch> batches_;
  std::uint64_t sum_ = 0;
};

// At commit nothing is left of a table but its launch, however often it is launched.
TEST_F(PreparedBatches, LaunchUploadsNothingAndTakesNoMemory) {
  for (int i = 0; i < 3; ++i) {
    std::fill(dst_.begin(), dst_.end(), std::byte{0});
    submit_prepared(0).wait(late());
    submit_prepared(1).wait(late());
    EXPECT_TRUE(has_arrived(0));
    EXPECT_TRUE(has_arrived(1));
  }
  EXPECT_EQ(state_->num_uploads, 0);
  EXPECT_EQ(state_->num_memories, 1) << "one for all that is prepared together";
  EXPECT_GE(batches_[0].prepared->size_bytes(), 64) << "it holds a record of 64 bytes";
}

// The table's own sums are those of one launch: a second one must not add to the first one's.
TEST_F(PreparedBatches, EachLaunchAddsItsOwnSumsAlone) {
  submit_prepared(0).wait(late());
  const std::uint64_t once = sum_;
  submit_prepared(0).wait(late());
  EXPECT_NE(once, 0U);
  EXPECT_EQ(sum_, 2 * once);
}

// A table holds addresses; a batch whose buffers have moved must not go where they were.
TEST_F(PreparedBatches, BatchForOtherAddressesIsLaidOutAnew) {
  std::vector<std::byte> elsewhere(dst_.size());
  addresses_.set(BufferId(1), elsewhere.data(), std::ssize(elsewhere));
  submit_prepared(0).wait(late());
  EXPECT_FALSE(has_arrived(0));
  EXPECT_TRUE(std::equal(src_.begin(), src_.end(), elsewhere.begin()));
  EXPECT_EQ(state_->num_uploads, 1);
}

TEST_F(PreparedBatches, BatchOfAnotherCopierIsLaidOutAnew) {
  StreamCopier other(std::make_unique<EmulatedDevice>(state_));
  other.submit(batches_[0], addresses_, {}).wait(late());
  EXPECT_TRUE(has_arrived(0));
  EXPECT_EQ(state_->num_uploads, 1);
}

// Two launches of one table at a time would share its sums.
TEST_F(PreparedBatches, TableUnderWayIsNotLaunchedAgain) {
  state_->is_held = true;
  const Token first = submit_prepared(0);
  std::uint64_t other_sum = 0;
  batches_[0].sums = &other_sum;
  const Token second = submit_prepared(0);
  state_->is_held = false;
  wait_all(std::array{first, second}, late());
  EXPECT_EQ(sum_, other_sum);
  EXPECT_EQ(state_->num_uploads, 1);
  batches_[0].sums = &sum_;
  submit_prepared(0).wait(late());
  EXPECT_EQ(state_->num_uploads, 1) << "the first launch has ended";
}

// A stage that fails leaves its tables to the next attempt.
TEST_F(PreparedBatches, TableOfABatchThatNeverRanIsFreeAgain) {
  auto failed = std::make_shared<HostCompletion>();
  failed->fail(std::make_exception_ptr(DeviceError("gone")));
  EXPECT_THROW(submit_prepared(0, std::array{Token(failed)}).wait(late()), DeviceError);
  submit_prepared(0).wait(late());
  EXPECT_TRUE(has_arrived(0));
  EXPECT_EQ(state_->num_uploads, 0);
}

// The batch is read while it runs; so is its table, whoever lets go of the batch's hold on it.
TEST_F(PreparedBatches, TableOutlivesTheBatchsHoldOnItWhileItRuns) {
  state_->is_held = true;
  const Token token = submit_prepared(0);
  for (CopyBatch& batch : batches_) {
    batch.prepared.reset();
  }
  prepare_another();
  EXPECT_EQ(state_->num_memories, 2) << "the memory of a table that runs was given to another";
  state_->is_held = false;
  token.wait(late());
  EXPECT_TRUE(has_arrived(0));
}

// Freeing memory stops a device, and the run that ends frees its tables in the middle of a switch.
TEST_F(PreparedBatches, MemoryOfTheLastRunServesTheNextOne) {
  for (int run = 0; run < 3; ++run) {
    submit_prepared(0).wait(late());
    for (CopyBatch& batch : batches_) {
      batch.prepared.reset();
    }
    batches_[0].prepared = prepare_another();
  }
  EXPECT_EQ(state_->num_memories, 1);
  EXPECT_EQ(state_->num_freed_memories, 0);
}

// What outlives the copier frees its memory itself.
TEST_F(PreparedBatches, TableMayOutliveItsCopier) {
  copier_.reset();
  EXPECT_EQ(state_->num_freed_memories, 0);
  for (CopyBatch& batch : batches_) {
    batch.prepared.reset();
  }
  EXPECT_EQ(state_->num_freed_memories, 1);
}

// What would leave its buffer is refused before anything lies on the device.
TEST_F(PreparedBatches, CopyThatWouldLeaveItsBufferIsRefusedWhenItIsPrepared) {
  batch_.copies[0].copy.extents = {9};
  EXPECT_THROW(
      static_cast<void>(copier_->prepare(std::vector<const CopyBatch*>{&batch_}, addresses_)),
      InternalError);
  EXPECT_EQ(state_->num_memories, 1);
}

}  // namespace
}  // namespace dynatrain

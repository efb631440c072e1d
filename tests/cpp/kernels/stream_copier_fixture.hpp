#pragma once

#include "dynatrain/execution/copier.hpp"

#include <gtest/gtest.h>

#include "kernels/cuda/stream_copier.hpp"
#include "kernels/emulated_device.hpp"
#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <iterator>
#include <memory>
#include <span>
#include <vector>

namespace dynatrain {

/// One byte from src to dst, with a sum, in batches that outlive their tokens.
class StreamCopierOrder : public ::testing::Test {
 protected:
  void SetUp() override {
    state_ = std::make_shared<EmulatedState>();
    copier_ = std::make_unique<StreamCopier>(std::make_unique<EmulatedDevice>(state_));
    addresses_.set(BufferId(0), src_.data(), static_cast<std::int64_t>(src_.size()));
    addresses_.set(BufferId(1), dst_.data(), static_cast<std::int64_t>(dst_.size()));
    CopyDescriptor copy;
    copy.src = BufferId(0);
    copy.dst = BufferId(1);
    copy.copy = {.extents = {8},
                 .src_offset_elems = 0,
                 .dst_offset_elems = 0,
                 .src_strides = {1},
                 .dst_strides = {1}};
    batch_.copies.push_back(copy);
  }
  /// The n-th submission copies to the n-th eight bytes of the target.
  Token submit(std::span<const Token> after = {}) {
    CopyBatch& batch = batches_.emplace_back(batch_);
    batch.copies[0].copy.dst_offset_elems = 8 * (std::ssize(batches_) - 1);
    return copier_->submit(batch, addresses_, after);
  }
  [[nodiscard]] bool has_arrived(std::ptrdiff_t submission) const {
    return std::equal(src_.begin(), src_.end(), dst_.begin() + 8 * submission);
  }
  static Deadline late() { return deadline_in(std::chrono::seconds(30)); }

  std::vector<std::byte> src_ = std::vector<std::byte>(8, std::byte{7});
  std::vector<std::byte> dst_ = std::vector<std::byte>(std::size_t{8} * 1024);
  AddressTable addresses_;
  CopyBatch batch_;
  std::deque<CopyBatch> batches_;  ///< each is read until its token is done
  std::shared_ptr<EmulatedState> state_;
  std::unique_ptr<StreamCopier> copier_;
};

}  // namespace dynatrain

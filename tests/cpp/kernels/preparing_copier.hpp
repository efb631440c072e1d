#pragma once

#include "dynatrain/execution/copier.hpp"

#include <cstdint>
#include <deque>
#include <memory>
#include <span>
#include <utility>
#include <vector>

namespace dynatrain {

/// A copier whose every batch is prepared before it is submitted, so that prepared batches are held
/// to the same promises.
class PreparingCopier final : public Copier {
 public:
  explicit PreparingCopier(std::unique_ptr<Copier> inner) : inner_(std::move(inner)) {}

  std::unique_ptr<CopierMemory> allocate(std::int64_t size_bytes, Place place) override {
    return inner_->allocate(size_bytes, place);
  }
  void reserve(std::int64_t num_copies, int num_batches) override {
    inner_->reserve(num_copies, num_batches);
  }
  [[nodiscard]] Place place_of(const std::byte* memory) const override {
    return inner_->place_of(memory);
  }
  Token submit(const CopyBatch& batch,
               const AddressTable& addresses,
               std::span<const Token> after) override {
    CopyBatch& prepared = batches_.emplace_back(batch);
    try {
      prepared.prepared = inner_->prepare(std::vector<const CopyBatch*>{&prepared}, addresses)[0];
    } catch (...) {
      auto failed = std::make_shared<HostCompletion>();
      failed->fail(std::current_exception());
      return Token(std::move(failed));
    }
    return inner_->submit(prepared, addresses, after);
  }

 private:
  std::deque<CopyBatch> batches_;  ///< before the copier, which reads them to its end
  std::unique_ptr<Copier> inner_;
};

}  // namespace dynatrain

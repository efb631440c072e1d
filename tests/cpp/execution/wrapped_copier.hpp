#pragma once

#include "dynatrain/execution/copier.hpp"
#include "dynatrain/kernels/cpu_copier.hpp"

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

namespace dynatrain {

/// The CPU copier behind a port that tests get in between.
class WrappedCopier : public Copier {
 public:
  std::unique_ptr<CopierMemory> allocate(std::int64_t size_bytes, Place place) override {
    return inner_->allocate(size_bytes, place);
  }
  void reserve(std::int64_t num_copies, int num_batches) override {
    inner_->reserve(num_copies, num_batches);
  }
  [[nodiscard]] std::vector<std::shared_ptr<PreparedBatch>> prepare(
      std::span<const CopyBatch* const> batches, const AddressTable& addresses) override {
    return inner_->prepare(batches, addresses);
  }
  [[nodiscard]] Place place_of(const std::byte* memory) const override {
    return inner_->place_of(memory);
  }
  Token submit(const CopyBatch& batch,
               const AddressTable& addresses,
               std::span<const Token> after) override {
    return inner_->submit(batch, addresses, after);
  }

 private:
  std::unique_ptr<Copier> inner_ = make_cpu_copier(1);
};

}  // namespace dynatrain

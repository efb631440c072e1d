#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <new>

namespace dynatrain {

/// The slots of the two stages in flight, page-aligned, taken and touched once and kept.
class StagingArena {
 public:
  /// Makes room for `num_slots` slots of `slot_bytes`; does nothing when there is room already.
  void reserve(std::int64_t slot_bytes, std::int64_t num_slots);
  [[nodiscard]] std::byte* slot(std::size_t index) const {
    return memory_.get() + static_cast<std::int64_t>(index) * stride_bytes_;
  }
  [[nodiscard]] std::int64_t slot_bytes() const { return stride_bytes_; }

 private:
  static constexpr std::align_val_t kPage{4096};
  struct Free {
    void operator()(std::byte* memory) const { ::operator delete[](memory, kPage); }
  };

  std::unique_ptr<std::byte[], Free> memory_;
  std::int64_t stride_bytes_ = 0;
  std::int64_t num_slots_ = 0;
};

}  // namespace dynatrain

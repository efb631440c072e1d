#pragma once

#include "dynatrain/execution/copier.hpp"
#include "dynatrain/schedule/schedule.hpp"

#include <cstddef>
#include <cstdint>
#include <memory>

namespace dynatrain {

/// What a staged run works in, taken once and kept: the slots of the two stages in flight, this
/// rank's sums of what it receives, and host memory in which sums are compared.
class StagingArena {
 public:
  /// Makes room for a schedule whose messages lie at `place`; does nothing when there is room.
  void reserve(const Schedule& schedule, Copier& copier, Place place);

  [[nodiscard]] std::byte* slot(std::size_t index) const {
    return slots_->data() + static_cast<std::int64_t>(index) * slot_bytes_;
  }
  [[nodiscard]] std::int64_t slot_bytes() const { return slot_bytes_; }
  /// Sums of received parts, at the place of the messages; of all stages, one after another.
  [[nodiscard]] std::byte* sums() const { return sums_->data(); }
  /// Two host words per received part: the sender's sum and this rank's.
  [[nodiscard]] std::byte* compared() const { return compared_->data(); }

 private:
  std::unique_ptr<CopierMemory> slots_;
  std::unique_ptr<CopierMemory> sums_;
  std::unique_ptr<CopierMemory> compared_;
  Place place_ = Place::kHost;
  std::int64_t slot_bytes_ = 0;
  std::int64_t num_slots_ = 0;
  std::int64_t num_sums_ = 0;
};

}  // namespace dynatrain

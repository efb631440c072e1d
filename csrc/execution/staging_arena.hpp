#pragma once

#include "dynatrain/execution/copier.hpp"
#include "dynatrain/execution/transport.hpp"
#include "dynatrain/schedule/schedule.hpp"

#include <cstddef>
#include <cstdint>
#include <memory>

namespace dynatrain {

/// What a staged run works in: the slots of the stages in flight, the sums of what a rank
/// receives, and host memory in which they are compared.
class Staging {
 public:
  struct Size {
    std::int64_t slot_bytes = 0;  ///< whole pages
    std::int64_t num_slots = 0;
    std::int64_t num_sums = 0;  ///< received parts of all stages
    Place place = Place::kHost;
  };

  /// The slots are memory of the transport where it has such, else the copier's.
  Staging(const Size& size, Transport& transport, Copier& copier);

  [[nodiscard]] const Size& size() const { return size_; }
  [[nodiscard]] std::byte* slot(std::size_t index) const {
    return slots_->data() + static_cast<std::int64_t>(index) * size_.slot_bytes;
  }
  [[nodiscard]] std::int64_t slot_bytes() const { return size_.slot_bytes; }
  /// Two words per received part, this rank's sum and the sender's, at the place of the messages.
  [[nodiscard]] std::byte* sums() const { return sums_->data(); }
  /// As much host memory.
  [[nodiscard]] std::byte* compared() const { return compared_->data(); }
  [[nodiscard]] std::int64_t sums_bytes() const;

 private:
  Size size_;
  std::unique_ptr<CopierMemory> slots_;
  std::unique_ptr<CopierMemory> sums_;
  std::unique_ptr<CopierMemory> compared_;
};

/// Staging that one run after another works in. A run that needs more gets more; what an earlier
/// one was bound to lives as long as that one.
class StagingArena {
 public:
  /// Staging for a schedule over `transport`; new only when there is too little.
  [[nodiscard]] std::shared_ptr<const Staging> take(const Schedule& schedule,
                                                    Transport& transport,
                                                    Copier& copier);

 private:
  std::shared_ptr<const Staging> staging_;
};

}  // namespace dynatrain

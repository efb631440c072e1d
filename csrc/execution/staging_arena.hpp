#pragma once

#include "dynatrain/execution/copier.hpp"
#include "dynatrain/execution/transport.hpp"
#include "dynatrain/schedule/schedule.hpp"

#include <cstddef>
#include <cstdint>
#include <memory>

namespace dynatrain {

/// What a staged run works in: the slots of the two stages in flight, this rank's sums of what it
/// receives, and host memory in which sums are compared.
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
  /// Sums of received parts, at the place of the messages; of all stages, one after another.
  [[nodiscard]] std::byte* sums() const { return sums_->data(); }
  /// Two host words per received part: the sender's sum and this rank's.
  [[nodiscard]] std::byte* compared() const { return compared_->data(); }

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

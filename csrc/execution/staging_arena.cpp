#include "execution/staging_arena.hpp"

#include "dynatrain/base/checked.hpp"

#include <cstring>

namespace dynatrain {

void StagingArena::reserve(std::int64_t slot_bytes, std::int64_t num_slots) {
  if (memory_ != nullptr && slot_bytes <= stride_bytes_ && num_slots <= num_slots_) {
    return;
  }
  constexpr auto page_bytes = static_cast<std::int64_t>(kPage);
  const std::int64_t stride = checked_mul(ceil_div(slot_bytes, page_bytes), page_bytes);
  const auto size = static_cast<std::size_t>(checked_mul(stride, num_slots));
  memory_.reset();
  memory_.reset(static_cast<std::byte*>(::operator new[](size, kPage)));
  std::memset(memory_.get(), 0, size);
  stride_bytes_ = stride;
  num_slots_ = num_slots;
}

}  // namespace dynatrain

#include "execution/staging_arena.hpp"

#include "dynatrain/base/checked.hpp"

#include <algorithm>
#include <iterator>
#include <utility>

namespace dynatrain {
namespace {

constexpr std::int64_t kPageBytes = 4096;

Staging::Size size_for(const Schedule& schedule, Place place) {
  Staging::Size size{
      .slot_bytes = checked_mul(ceil_div(schedule.slot_bytes, kPageBytes), kPageBytes),
      .num_slots = std::min<std::int64_t>(kNumSlots, std::ssize(schedule.stages)),
      .num_sums = 0,
      .place = place};
  for (const Stage& stage : schedule.stages) {
    size.num_sums += num_parts(stage.receives);
  }
  return size;
}

bool fits(const Staging::Size& wanted, const Staging::Size& there) {
  return wanted.place == there.place && wanted.slot_bytes <= there.slot_bytes &&
         wanted.num_slots <= there.num_slots && wanted.num_sums <= there.num_sums;
}

/// Enough for both, so that switches back and forth take memory once.
Staging::Size larger(Staging::Size wanted, const Staging::Size& there) {
  if (wanted.place == there.place) {
    wanted.num_sums = std::max(wanted.num_sums, there.num_sums);
    wanted.slot_bytes = std::max(wanted.slot_bytes, there.slot_bytes);
    wanted.num_slots = std::max(wanted.num_slots, there.num_slots);
  }
  return wanted;
}

std::unique_ptr<CopierMemory> allocate_slots(const Staging::Size& size,
                                             Transport& transport,
                                             Copier& copier) {
  const std::int64_t size_bytes = checked_mul(size.slot_bytes, size.num_slots);
  std::unique_ptr<CopierMemory> slots = transport.allocate_messages(size_bytes);
  return slots != nullptr ? std::move(slots) : copier.allocate(size_bytes, size.place);
}

}  // namespace

Staging::Staging(const Size& size, Transport& transport, Copier& copier)
    : size_(size),
      slots_(allocate_slots(size, transport, copier)),
      sums_(copier.allocate(sums_bytes(), size.place)),
      compared_(copier.allocate(sums_bytes(), Place::kHost)) {}

std::int64_t Staging::sums_bytes() const {
  return checked_mul(2 * kSumBytes, size_.num_sums);
}

std::shared_ptr<const Staging> StagingArena::take(const Schedule& schedule,
                                                  Transport& transport,
                                                  Copier& copier) {
  Staging::Size wanted = size_for(schedule, transport.message_place());
  if (staging_ != nullptr && fits(wanted, staging_->size())) {
    return staging_;
  }
  if (staging_ != nullptr) {
    wanted = larger(wanted, staging_->size());
  }
  staging_.reset();  // first, so that both are there together only where somebody holds the former
  staging_ = std::make_shared<const Staging>(wanted, transport, copier);
  return staging_;
}

}  // namespace dynatrain

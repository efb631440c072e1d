#include "execution/staging_arena.hpp"

#include "dynatrain/base/checked.hpp"

#include <algorithm>
#include <iterator>

namespace dynatrain {
namespace {

constexpr std::int64_t kPageBytes = 4096;
constexpr std::int64_t kSumBytes = sizeof(std::uint64_t);

std::int64_t num_received_parts(const Schedule& schedule) {
  std::int64_t num_received = 0;
  for (const Stage& stage : schedule.stages) {
    num_received += num_parts(stage.receives);
  }
  return num_received;
}

}  // namespace

void StagingArena::reserve(const Schedule& schedule, Copier& copier, Place place) {
  const std::int64_t num_slots = std::min<std::int64_t>(2, std::ssize(schedule.stages));
  const std::int64_t num_sums = num_received_parts(schedule);
  const bool is_elsewhere = place != place_;
  place_ = place;
  if (slots_ == nullptr || is_elsewhere || schedule.slot_bytes > slot_bytes_ ||
      num_slots > num_slots_) {
    const std::int64_t stride = checked_mul(ceil_div(schedule.slot_bytes, kPageBytes), kPageBytes);
    slots_.reset();
    slots_ = copier.allocate(checked_mul(stride, num_slots), place);
    slot_bytes_ = stride;
    num_slots_ = num_slots;
  }
  if (sums_ == nullptr || is_elsewhere || num_sums > num_sums_) {
    sums_.reset();
    sums_ = copier.allocate(checked_mul(kSumBytes, num_sums), place);
    compared_ = copier.allocate(checked_mul(2 * kSumBytes, num_sums), Place::kHost);
    num_sums_ = num_sums;
  }
}

}  // namespace dynatrain

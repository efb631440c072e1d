#include "kernels/cuda/table_pool.hpp"

#include "dynatrain/base/checked.hpp"

#include <algorithm>
#include <bit>
#include <iterator>
#include <utility>

namespace dynatrain {
namespace {

constexpr std::int64_t kMinBytes = std::int64_t{64} << 10;
constexpr std::int64_t kStepBytes = std::int64_t{1} << 20;

/// A little more, so that batches which grow slowly do not take memory each time.
std::int64_t rounded_up(std::int64_t size_bytes) {
  if (size_bytes > kStepBytes) {
    return ceil_div(size_bytes, kStepBytes) * kStepBytes;
  }
  return static_cast<std::int64_t>(
      std::bit_ceil(static_cast<std::uint64_t>(std::max(size_bytes, kMinBytes))));
}

bool is_smaller(const std::unique_ptr<TableMemory>& memory, std::int64_t size_bytes) {
  return memory->size_bytes() < size_bytes;
}

}  // namespace

std::shared_ptr<TableMemory> TablePool::take(std::int64_t size_bytes) {
  Taken taken = take_free(size_bytes);
  if (taken.fits == nullptr) {
    // Outside the lock: the device stops, and what it still runs may need whoever gives back.
    taken.too_small.reset();
    taken.fits = device_.make_table_memory(rounded_up(size_bytes));
  }
  const auto come_back = [pool = weak_from_this()](TableMemory* ended) {
    std::unique_ptr<TableMemory> owned(ended);
    if (const auto there = pool.lock()) {
      there->give_back(std::move(owned));
    }
  };
  return {taken.fits.release(), come_back};
}

TablePool::Taken TablePool::take_free(std::int64_t size_bytes) {
  Taken taken;
  const std::lock_guard lock(mutex_);
  const auto found = std::lower_bound(free_.begin(), free_.end(), size_bytes, is_smaller);
  if (found != free_.end()) {
    taken.fits = std::move(*found);
    free_.erase(found);
  } else if (!free_.empty()) {
    taken.too_small = std::move(free_.back());
    free_.pop_back();
  }
  return taken;
}

void TablePool::give_back(std::unique_ptr<TableMemory> memory) {
  const std::lock_guard lock(mutex_);
  const auto place = std::lower_bound(free_.begin(), free_.end(), memory->size_bytes(), is_smaller);
  free_.insert(place, std::move(memory));
}

void TablePool::reserve(std::int64_t size_bytes, int num_memories) {
  const std::lock_guard lock(mutex_);
  const auto first = std::lower_bound(free_.begin(), free_.end(), size_bytes, is_smaller);
  for (auto there = std::distance(first, free_.end()); there < num_memories; ++there) {
    free_.push_back(device_.make_table_memory(rounded_up(size_bytes)));
  }
  std::ranges::sort(free_, {}, &TableMemory::size_bytes);
}

}  // namespace dynatrain

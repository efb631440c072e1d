#include "failing_allocation.hpp"

#include <atomic>
#include <cstdlib>
#include <limits>
#include <new>

namespace dynatrain::testing {
namespace {

constexpr std::int64_t kNever = std::numeric_limits<std::int64_t>::max();
std::atomic<std::int64_t> num_good_left{kNever};
std::atomic<std::int64_t> num_failures_left{0};

bool is_to_fail() {
  return num_good_left.fetch_sub(1) <= 0 && num_failures_left.fetch_sub(1) > 0;
}

}  // namespace

FailingAllocation::FailingAllocation(std::int64_t num_good, std::int64_t num_failures) {
  num_failures_left = num_failures;
  num_good_left = num_good;
}

FailingAllocation::~FailingAllocation() {
  num_good_left = kNever;
}

bool FailingAllocation::has_failed() {
  return num_good_left < 0;
}

}  // namespace dynatrain::testing

void* operator new(std::size_t size_bytes) {
  void* const memory =
      dynatrain::testing::is_to_fail() ? nullptr : std::malloc(size_bytes == 0 ? 1 : size_bytes);
  if (memory == nullptr) {
    throw std::bad_alloc();
  }
  return memory;
}

void operator delete(void* memory) noexcept {
  std::free(memory);
}

void operator delete(void* memory, std::size_t /*size_bytes*/) noexcept {
  std::free(memory);
}

// The standard library's own would do the same; a sanitizer puts its own in their place.
void* operator new(std::size_t size_bytes, const std::nothrow_t& /*tag*/) noexcept {
  try {
    return operator new(size_bytes);
  } catch (const std::bad_alloc&) {
    return nullptr;
  }
}

void operator delete(void* memory, const std::nothrow_t& /*tag*/) noexcept {
  std::free(memory);
}

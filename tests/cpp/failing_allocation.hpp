#pragma once

#include <cstdint>

namespace dynatrain::testing {

/// While it lives, the allocation after the next `num_good` ones of this program fails, in whatever
/// thread it is, and the `num_failures - 1` behind it. One at a time. For programs that are linked
/// with failing_allocation.cpp, which replaces their operator new.
class FailingAllocation {
 public:
  explicit FailingAllocation(std::int64_t num_good, std::int64_t num_failures = 1);
  ~FailingAllocation();
  FailingAllocation(const FailingAllocation&) = delete;
  FailingAllocation& operator=(const FailingAllocation&) = delete;

  /// False where less was allocated.
  [[nodiscard]] static bool has_failed();
};

}  // namespace dynatrain::testing

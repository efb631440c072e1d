#pragma once

#include "dynatrain/execution/executor.hpp"

namespace dynatrain {

/// A range in the timeline of profilers while it lives: NVTX, and the hook's.
class PhaseRange {
 public:
  PhaseRange(const RangeHook& hook, const char* name) noexcept;
  ~PhaseRange();
  PhaseRange(const PhaseRange&) = delete;
  PhaseRange& operator=(const PhaseRange&) = delete;

 private:
  const RangeHook& hook_;
};

}  // namespace dynatrain

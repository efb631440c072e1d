#include "execution/phase_range.hpp"

#if DYNATRAIN_HAS_NVTX
#include <nvtx3/nvToolsExt.h>
#endif

namespace dynatrain {

PhaseRange::PhaseRange(const RangeHook& hook, const char* name) noexcept : hook_(hook) {
#if DYNATRAIN_HAS_NVTX
  // NVTX would do it by itself, but not for two threads at once.
  static const bool kIsReady = (nvtxInitialize(nullptr), true);
  if (kIsReady) {
    nvtxRangePushA(name);
  }
#endif
  try {
    if (hook_.begin) {
      hook_.begin(name);
    }
  } catch (...) {  // NOLINT(bugprone-empty-catch): a profiler must not stop a switch
  }
}

PhaseRange::~PhaseRange() {
  try {
    if (hook_.end) {
      hook_.end();
    }
  } catch (...) {  // NOLINT(bugprone-empty-catch): a profiler must not stop a switch
  }
#if DYNATRAIN_HAS_NVTX
  nvtxRangePop();
#endif
}

}  // namespace dynatrain

#pragma once

#include "dynatrain/execution/executor.hpp"

#include "execution/program.hpp"
#include <cstdint>

namespace dynatrain {

/// True when the run compares sums: it was asked to, and its schedule carries them.
[[nodiscard]] bool compares_sums(const RunInputs& run);

/// Errors: TransportError naming the part, when what arrived is not what was sent.
void compare_sums(const RunInputs& run,
                  const PartCheck& check,
                  int stage,
                  std::uint64_t sent,
                  std::uint64_t received);

}  // namespace dynatrain

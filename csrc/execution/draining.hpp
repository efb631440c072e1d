#pragma once

#include "dynatrain/base/token.hpp"

#include <chrono>
#include <span>

namespace dynatrain {

/// Waits until all tokens have ended, well or badly; false when some have not at the deadline.
[[nodiscard]] bool drain(std::span<const Token> tokens, Deadline deadline) noexcept;

/// How long operations may take to end once their transport was aborted.
inline constexpr std::chrono::seconds kDrainTime{30};

/// Waits of a run end this long after the monitor had to abort, at the latest.
inline constexpr std::chrono::seconds kAfterAbort{1};

}  // namespace dynatrain

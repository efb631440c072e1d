#pragma once

#include "dynatrain/base/token.hpp"

#include <chrono>
#include <span>

namespace dynatrain {

/// Waits until all tokens have ended, well or badly; false when some have not at the deadline.
[[nodiscard]] bool drain(std::span<const Token> tokens, Deadline deadline) noexcept;

/// How long operations may take to end once their transport was aborted.
inline constexpr std::chrono::seconds kDrainTime{30};

}  // namespace dynatrain

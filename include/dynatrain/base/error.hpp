#pragma once

#include <cstdint>
#include <source_location>
#include <stdexcept>
#include <string>

namespace dynatrain {

/// Root of every error that dynatrain throws; `where()` is the throwing line, kept out of the text.
///
/// The message says what was refused, expected and got, which tensor and rank, what state remains,
/// and what to do next; see docs/design/base.md, "Errors".
class Error : public std::runtime_error {
 public:
  explicit Error(const std::string& message,
                 std::source_location where = std::source_location::current())
      : std::runtime_error(message), where_(where) {}

  [[nodiscard]] const std::source_location& where() const noexcept { return where_; }

 private:
  std::source_location where_;
};

/// The caller's layouts, maps or tensors do not fit; nothing was moved.
class LayoutError : public Error {
 public:
  using Error::Error;
};

/// A predicted peak is over the budget; nothing was moved.
class BudgetError : public Error {
 public:
  BudgetError(const std::string& message,
              std::int64_t required,
              std::int64_t budget,
              std::source_location where = std::source_location::current())
      : Error(message, where), required_bytes(required), budget_bytes(budget) {}

  std::int64_t required_bytes;
  std::int64_t budget_bytes;
};

/// A peer could not be reached, answered with other bytes, or was too late. `peer` is -1 when no
/// single peer is at fault, `stage` is -1 outside of stages.
class TransportError : public Error {
 public:
  TransportError(const std::string& message,
                 int peer_rank,
                 int stage_index,
                 bool is_retryable,
                 std::source_location where = std::source_location::current())
      : Error(message, where), peer(peer_rank), stage(stage_index), retryable(is_retryable) {}

  int peer;
  int stage;
  bool retryable;
};

/// A device call failed.
class DeviceError : public Error {
 public:
  using Error::Error;
};

/// dynatrain broke one of its own invariants; the message asks for a report.
class InternalError : public Error {
 public:
  using Error::Error;
};

/// Throws InternalError; called by DYNATRAIN_CHECK only.
[[noreturn]] void fail_check(const char* condition,
                             const std::string& message,
                             std::source_location where = std::source_location::current());

}  // namespace dynatrain

/// "This is our bug": throws InternalError with `message` (required) when `condition` is false.
#define DYNATRAIN_CHECK(condition, message)         \
  do {                                              \
    if (!(condition)) [[unlikely]] {                \
      ::dynatrain::fail_check(#condition, message); \
    }                                               \
  } while (false)

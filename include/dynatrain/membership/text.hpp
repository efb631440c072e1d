#pragma once

#include "dynatrain/membership/coordinator.hpp"
#include "dynatrain/membership/worker.hpp"

#include <cstdint>
#include <string>
#include <string_view>

/// The text form of everything that goes into a machine or comes out of it, one line each: what
/// travels, what a ledger holds, and what a trace is made of. docs/design/membership.md, "Text".
namespace dynatrain::membership {

/// The first word of every line. Another one is another protocol, and is refused.
inline constexpr int kTextVersion = 1;
/// Of a message; of other lines, which may list all members of a world, kMaxLineBytes.
inline constexpr std::size_t kMaxMessageBytes = 8192;
inline constexpr std::size_t kMaxLineBytes = 4U << 20U;
inline constexpr std::size_t kMaxWorldMembers = 1U << 16U;
/// Versions, epochs and times up to here: sums of a few of them stay far from the end of 64 bits.
inline constexpr std::int64_t kMaxNumber = 1LL << 53U;

/// Returns the line, without an end of line. For FromWorker, FromCoordinator, CoordinatorEvent,
/// CoordinatorAction, WorkerEvent, WorkerAction, Record and Description.
/// Errors   LayoutError for a value that decode() would refuse.
template <class Value>
[[nodiscard]] std::string encode(const Value& value);

/// Reads what encode() wrote, for the same types. Accepts nothing else, not even another spelling
/// of the same value: encode(decode(line)) == line. Errors   LayoutError naming the word that was
/// not understood; the line is quoted shortened. Cost     O(bytes), and no more memory than a few
/// times the line.
template <class Value>
[[nodiscard]] Value decode(std::string_view line);

}  // namespace dynatrain::membership

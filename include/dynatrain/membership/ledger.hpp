#pragma once

#include "dynatrain/membership/world.hpp"

#include <cstdint>
#include <map>
#include <set>
#include <span>
#include <string>
#include <variant>

/// What a coordinator must find again when it starts anew. Written before anybody is told.
namespace dynatrain::membership {

struct MemberJoined {
  MemberId id;
  std::string host;
  std::string settings{};  // NOLINT(readability-redundant-member-init): see ExecuteOptions
  std::string machine{};   // NOLINT(readability-redundant-member-init): see ExecuteOptions
};
struct MemberLeaves {
  MemberId id;
};
struct MemberReleased {
  MemberId id;
};
struct MemberLost {
  MemberId id;
  std::string why;
};
struct LayoutWished {
  std::string layout;
};
struct AttemptBegun {
  std::int64_t attempt = 0;
};
struct AttemptAborted {
  std::int64_t attempt = 0;
  std::string why;
};
struct AttemptCommitted {
  std::int64_t attempt = 0;
  World world;
};
struct WorldHalted {
  std::int64_t epoch = 0;
  std::string why;
};
struct JobFinished {
  std::int64_t epoch = 0;
};

using Record = std::variant<MemberJoined,
                            MemberLeaves,
                            MemberReleased,
                            MemberLost,
                            LayoutWished,
                            AttemptBegun,
                            AttemptAborted,
                            AttemptCommitted,
                            WorldHalted,
                            JobFinished>;

enum class Standing : std::uint8_t { kActive, kLeaving, kReleased, kLost };

struct DurableMember {
  std::string host;
  std::string why;  ///< of a lost member
  Standing standing = Standing::kActive;
  std::int64_t order = 0;  ///< of joining
  std::string settings{};  // NOLINT(readability-redundant-member-init): see ExecuteOptions
  std::string machine{};   // NOLINT(readability-redundant-member-init): see ExecuteOptions

  friend bool operator==(const DurableMember&, const DurableMember&) = default;
};

/// The sum of a ledger's records.
struct DurableState {
  std::map<MemberId, DurableMember> members;
  std::int64_t num_joined = 0;
  std::string wish;
  World world;
  bool is_halted = false;  ///< the present world waits for a recovery
  std::string halted_why;
  bool is_finished = false;
  std::int64_t last_attempt = 0;
  bool is_attempt_open = false;
  std::set<std::int64_t> committed_attempts;

  friend bool operator==(const DurableState&, const DurableState&) = default;
};

/// Adds one record.
/// Errors   LayoutError when the record cannot follow what is there (an attempt that is not open,
/// an
///          epoch that is not the next, a member that is unknown or lost); `state` is unchanged.
void add_record(DurableState& state, const Record& record);

/// Adds up a ledger from its first record. Errors: as add_record(); the message says which record.
[[nodiscard]] DurableState replay_ledger(std::span<const Record> records);

}  // namespace dynatrain::membership

#pragma once

#include "dynatrain/membership/ledger.hpp"
#include "dynatrain/membership/messages.hpp"
#include "dynatrain/membership/policy.hpp"

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace dynatrain::membership {

enum class Phase : std::uint8_t {
  kSteady,      ///< no change is under way
  kPreparing,   ///< members prepare for an attempt
  kPromising,   ///< members of the source answer a proposal
  kCommitting,  ///< members go to the step, switch and vote
  kHalting,     ///< a world has failed, and its members report
  kRecovering,  ///< halted, between two attempts to recover
  kFinished,    ///< the job has done its last step
};

[[nodiscard]] std::string_view phase_name(Phase phase);

enum class Role : std::uint8_t { kMember, kSpare, kLeaving };

[[nodiscard]] std::string_view role_name(Role role);

struct MemberStatus {
  MemberId id;
  std::string host;
  std::string machine;
  Role role = Role::kSpare;
  std::optional<int> rank;  ///< in the present world
  std::int64_t epoch = 0;   ///< as last told by the member itself
  std::int64_t version = 0;
  std::int64_t last_heard_ms = 0;  ///< how long ago
};

/// A coordinator at one moment. A value: printing it is up to the caller.
struct Status {
  std::vector<MemberStatus> members;  ///< without those that are lost or released
  World world;
  Phase phase = Phase::kSteady;
  std::optional<std::int64_t> attempt;
  /// Why the next change has not come yet, in words, and how long it waits at most; 0 when it waits
  /// for no time.
  std::string waits_for;
  double seconds_left = 0;
  std::string wish;          ///< the layout that was asked for, or empty
  std::string last_failure;  ///< why the last attempt was aborted; empty after a success
  /// Passed over until members come or go or the wish changes: those who are there cannot take
  /// them.
  std::vector<RefusedLayout> refused_layouts;
  std::int64_t num_stale = 0;  ///< messages that came too late to matter
  std::int64_t num_lost = 0;
};

}  // namespace dynatrain::membership

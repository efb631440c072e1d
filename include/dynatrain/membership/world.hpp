#pragma once

#include <compare>
#include <cstdint>
#include <string>
#include <vector>

namespace dynatrain::membership {

/// One start of one worker process. A process that starts again is another member.
struct MemberId {
  std::uint64_t value = 0;  ///< 0 names nobody

  friend constexpr auto operator<=>(MemberId, MemberId) = default;
};

/// The members that train together, under one layout. A member's rank is its place in `members`.
struct World {
  std::int64_t epoch = 0;  ///< 0 is the world before the first one: nobody is in it
  std::string layout;
  std::vector<MemberId> members;
  std::int64_t version = 0;  ///< completed steps with which it begins

  friend bool operator==(const World&, const World&) = default;
};

enum class ChangeKind : std::uint8_t {
  kPlanned,   ///< the source trains on until a step that all agree on
  kRecovery,  ///< the source is halted; the target begins with a version that was reported
};

/// What a member has of the version with which a recovery begins.
enum class Holding : std::uint8_t {
  kAbsent,   ///< the member is lost and takes no part
  kNothing,  ///< it takes part, and has nothing of this version
  kLive,
  kSnapshot,
};

/// One attempt to get from one world to the next, as it is published to all who take part.
struct Description {
  std::int64_t attempt = 0;
  ChangeKind kind = ChangeKind::kPlanned;
  World source;
  World target;  ///< of a planned change, `version` is known later: see Go
  /// Of a recovery, one for each member of the source, then for the others of the target in their
  /// order; of a planned change, empty: every member of the source holds all that it should.
  std::vector<Holding> holdings;
  /// Of a recovery, those who take part for their copies alone: they are in neither world.
  std::vector<MemberId> former;
  /// Of a planned change, why its members prepare it in the stop; empty where they do so beside
  /// training.
  std::string cold_because;

  friend bool operator==(const Description&, const Description&) = default;
};

}  // namespace dynatrain::membership

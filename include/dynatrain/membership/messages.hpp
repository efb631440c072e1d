#pragma once

#include "dynatrain/membership/world.hpp"

#include <cstdint>
#include <string>
#include <variant>
#include <vector>

/// What members and the coordinator tell each other. Each message may be lost, late, doubled or out
/// of order; docs/design/membership.md, "Repair", says why that is enough.
namespace dynatrain::membership {

/// How far a member is in its open attempt. Later ones include earlier ones.
enum class Stage : std::uint8_t {
  kNone,      ///< preparing
  kPrepared,  ///< ready for the proposal
  kPromised,  ///< will not begin the proposed step before it knows the decision
  kAgreed,    ///< has been told to go, and switches when it stands at the step
  kVoted,     ///< has voted yes; the decision is no longer its own
};

enum class Activity : std::uint8_t {
  kIdle,      ///< in no world
  kTraining,  ///< trains, or stands at a boundary
  kBroken,    ///< its step has failed; it holds
  kHalted,    ///< stopped by the coordinator; it holds
};

// ---- from a member -----------------------------------------------------------------------------

struct Join {
  MemberId id;
  std::string host;  ///< what people call its machine, or its container
  /// What must be the same on all members, a line for each: its name, a space, its value.
  std::string settings{};  // NOLINT(readability-redundant-member-init): see ExecuteOptions
  /// The same for all members of one machine, whichever containers they are in.
  std::string machine{};  // NOLINT(readability-redundant-member-init): see ExecuteOptions
};

/// All of a member's place: whatever message of it was lost, the next heartbeat says it again.
struct Heartbeat {
  MemberId id;
  std::int64_t epoch = 0;  ///< of the world that it is in, 0 for none
  std::int64_t version = 0;
  std::int64_t attempt = 0;  ///< the open one, 0 for none
  Stage stage = Stage::kNone;
  std::int64_t proposal = 0;        ///< the last one heard in the open attempt
  std::int64_t closed_attempt = 0;  ///< it takes no part in this one and earlier ones any more
  Activity activity = Activity::kIdle;
  bool is_leaving = false;
  /// The world to whose state the copies lead that it has made; 0 where it has none.
  std::int64_t copies = 0;
  bool is_copied = false;  ///< a snapshot or a checkpoint of its present world is whole
};

/// Asks to be left out of the next world. After `grace_ms` the process ends in any case.
struct Leave {
  MemberId id;
  std::int64_t grace_ms = 0;
};

struct Prepared {
  MemberId id;
  std::int64_t attempt = 0;
  std::int64_t version = 0;
};

struct PrepareFailed {
  MemberId id;
  std::int64_t attempt = 0;
  std::string why;
  bool is_uncovered = false;  ///< the version of a recovery cannot be put together from its holders
  /// The target cannot be taken from the state as it is. Beside `is_uncovered`: which of the two it
  /// is cannot be told, and another target might do.
  bool is_refusal = false;
};

/// The answer to Propose; yes binds the member until it hears the decision or a later proposal.
struct Promise {
  MemberId id;
  std::int64_t attempt = 0;
  std::int64_t proposal = 0;
  bool is_yes = false;
  std::int64_t version = 0;
};

struct Vote {
  MemberId id;
  std::int64_t attempt = 0;
  bool is_yes = false;
  std::string why;          ///< of a no
  bool is_refusal = false;  ///< of a no: the target cannot be taken from the state as it is
};

struct Installed {
  MemberId id;
  std::int64_t epoch = 0;
  std::int64_t version = 0;
};

struct StepFailed {
  MemberId id;
  std::int64_t epoch = 0;
  std::vector<MemberId> suspects;  ///< at most kMaxSuspects
};

/// The answer to Halt, and to Search. What it says stays true until the member is told to go on.
struct Report {
  MemberId id;
  std::int64_t epoch = 0;
  std::int64_t version = 0;
  bool is_clean = false;  ///< no optimizer step was cut short: `version` is held whole
  std::vector<std::int64_t> snapshot_versions;  ///< checkpoints too; at most kMaxSnapshots
};

/// The process ends now. `is_finished`: all steps of the job are done.
struct Gone {
  MemberId id;
  bool is_finished = false;
};

using FromWorker = std::variant<Join,
                                Heartbeat,
                                Leave,
                                Prepared,
                                PrepareFailed,
                                Promise,
                                Vote,
                                Installed,
                                StepFailed,
                                Report,
                                Gone>;

// ---- from the coordinator ----------------------------------------------------------------------

struct Welcome {};

/// The member cannot take part, and ends.
struct Refused {
  std::string why;
  bool is_over = false;  ///< the job has finished: nothing is left to do, which is no error
};

/// The answer to a heartbeat: the coordinator lives.
struct Heard {};

/// Asks to prepare for an attempt; its description is published under the number. The rest is what
/// the protocol itself asks of this member.
struct Prepare {
  std::int64_t attempt = 0;
  ChangeKind kind = ChangeKind::kPlanned;
  std::int64_t source_epoch = 0;
  bool is_source = false;  ///< the member is in the source
  std::int64_t target_epoch = 0;
  int target_rank = -1;  ///< -1 when the member is not in the target
};

/// Asks not to begin `step` before the decision is known; goes to members of the source.
struct Propose {
  std::int64_t attempt = 0;
  std::int64_t proposal = 0;
  std::int64_t step = 0;
};

/// All have promised: the attempt switches at `step`, or not at all.
struct Go {
  std::int64_t attempt = 0;
  std::int64_t proposal = 0;
  std::int64_t step = 0;
};

struct Decision {
  std::int64_t attempt = 0;
  bool is_commit = false;
  std::string why;  ///< of an abort
};

/// Stop the step at once, abort what hangs, and report. Goes to the members of the halted world,
/// and to those that have left it, or a world before it, with copies that its state may need.
struct Halt {
  std::int64_t epoch = 0;
  std::string why;  ///< who is lost, or whose step has failed
};

/// Why nothing goes on, to a member that trains in no world and takes part in no attempt: said
/// behind every heartbeat for as long as it is so.
struct Holds {
  std::string why;
  bool is_gone = false;  ///< the state cannot be put together from what is left of it
};

/// Nobody who is there has a state: asks which versions the member finds on disk or has copies of.
struct Search {
  std::int64_t epoch = 0;         ///< of the world that is gone, 0 where there was none
  std::int64_t copies_since = 0;  ///< copies that lead to a world before this one do not count
};

/// Copies of a member that is in no world are of no use any more, where they lead to a world before
/// this one.
struct Forget {
  std::int64_t epoch = 0;
};

/// The member is in no world any more and may exit.
struct Released {};

/// The member was declared lost. That is final.
struct Lost {
  std::string why;
};

using FromCoordinator = std::variant<Welcome,
                                     Refused,
                                     Heard,
                                     Prepare,
                                     Propose,
                                     Go,
                                     Decision,
                                     Halt,
                                     Holds,
                                     Search,
                                     Forget,
                                     Released,
                                     Lost>;

inline constexpr std::size_t kMaxSuspects = 64;
inline constexpr std::size_t kMaxSnapshots = 64;
inline constexpr std::size_t kMaxHostBytes = 255;
inline constexpr std::size_t kMaxSettingsBytes = 4096;
inline constexpr std::size_t kMaxWhyBytes = 1000;
inline constexpr std::size_t kMaxLayoutBytes = 1000;

}  // namespace dynatrain::membership

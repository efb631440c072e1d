#pragma once

#include "dynatrain/membership/coordinator.hpp"
#include "dynatrain/membership/deadlines.hpp"
#include "dynatrain/membership/messages.hpp"

#include <cstdint>
#include <optional>
#include <string>
#include <variant>
#include <vector>

namespace dynatrain::membership {

// ---- what the process tells its machine --------------------------------------------------------

/// The script stands between two steps, with `version` steps completed, and waits for Train.
struct AtBoundary {
  std::int64_t version = 0;
};
/// The step that was allowed has failed; nothing of it runs any more.
struct StepBroke {
  std::vector<MemberId> suspects;
};
struct PrepareDone {
  std::int64_t attempt = 0;
};
struct PrepareBroke {
  std::int64_t attempt = 0;
  std::string why;
  bool is_uncovered = false;
  bool is_refusal = false;
};
/// The transfer has ended well: the target is there, and the source still is. Or, where the source
/// is freed meanwhile, all is ready for it: it follows the decision, and its failure is a step's.
struct SwitchMoved {
  std::int64_t attempt = 0;
};
/// The transfer has ended; the source is as it was.
struct SwitchBroke {
  std::int64_t attempt = 0;
  std::string why;
  bool is_refusal = false;  ///< the target cannot be taken from the state as it is
};
/// The answer to StopStep: neither a step nor a transfer runs any more.
struct Stopped {
  std::int64_t version = 0;
  bool is_clean = false;
  std::vector<std::int64_t> snapshot_versions;
};
/// The answer to FindVersions: versions that this process can read from disk, or has copies of.
struct Found {
  std::vector<std::int64_t> versions;
};
/// A snapshot of the world with this epoch is whole; a checkpoint, where `is_on_disk`.
struct Copied {
  std::int64_t epoch = 0;
  bool is_on_disk = false;
};
struct LeaveWanted {
  std::int64_t grace_ms = 0;
};
/// The script has done its last step.
struct ScriptFinished {};

using WorkerEvent = std::variant<FromCoordinator,
                                 AtBoundary,
                                 StepBroke,
                                 PrepareDone,
                                 PrepareBroke,
                                 SwitchMoved,
                                 SwitchBroke,
                                 Stopped,
                                 Found,
                                 Copied,
                                 LeaveWanted,
                                 ScriptFinished,
                                 Tick>;

// ---- what the machine asks of its process ------------------------------------------------------

struct Tell {
  FromWorker message;
};
/// The step that begins with `version` completed steps may begin.
struct Train {
  std::int64_t epoch = 0;
  std::int64_t version = 0;
};
struct RunPrepare {
  std::int64_t attempt = 0;
};
/// Transfer to the target at `version`; ends with SwitchMoved or SwitchBroke, within a deadline.
struct RunSwitch {
  std::int64_t attempt = 0;
  std::int64_t version = 0;
};
/// The attempt is over: end what runs for it and let go of its target. A transfer that runs still
/// ends with SwitchMoved or SwitchBroke.
struct Discard {
  std::int64_t attempt = 0;
};
/// Take the target in place of the source. Allowed steps follow as Train.
struct Install {
  std::int64_t attempt = 0;
  std::int64_t epoch = 0;
  std::int64_t version = 0;
};
/// The attempt was committed without this member: let go of the source. Copies of `version` and
/// before stay: the new world may need them before it has made its own.
struct Retire {
  std::int64_t attempt = 0;
  std::int64_t version = 0;
};
/// Let go of all copies: no world needs them, or they are of steps that were undone.
struct ForgetCopies {};
/// Abort what hangs, in the step and in a transfer; ends with Stopped.
struct StopStep {
  std::int64_t epoch = 0;
  std::string why;
};

/// Nothing goes on, and why: for the process to tell its user. Comes with every heartbeat that is
/// answered so.
struct StandStill {
  std::string why;
  bool is_gone = false;  ///< the state is; the process ends soon where nothing comes that helps
};

/// Look for checkpoints of the job, and for copies; ends with Found.
struct FindVersions {};

enum class EndReason : std::uint8_t {
  kReleased,   ///< not needed any more: no error
  kFinished,   ///< the script is done: no error
  kGraceOver,  ///< asked to leave, and the grace is over
  kOver,       ///< the job had finished when it came: no error
  kRefused,    ///< the coordinator does not know or want this member
  kLost,       ///< declared lost
  kUndecided,  ///< has voted yes and could not learn the decision
  kAbandoned,  ///< holds, and the coordinator is not heard
  kStateGone,  ///< the state of the job cannot be put together from what is left of it
};

[[nodiscard]] std::string_view end_reason_name(EndReason reason);

/// The process ends; nothing follows.
struct End {
  EndReason reason = EndReason::kReleased;
  std::string why;
};

using WorkerAction = std::variant<Tell,
                                  Train,
                                  RunPrepare,
                                  RunSwitch,
                                  Discard,
                                  Install,
                                  Retire,
                                  ForgetCopies,
                                  StopStep,
                                  StandStill,
                                  FindVersions,
                                  End>;

struct WorkerOptions {
  MemberId id;
  std::string host;
  Deadlines deadlines = make_deadlines();
  /// The process looks for checkpoints: a state that is gone may still come from a folder that is
  /// there later. Without, there is nothing to wait for.
  bool has_checkpoints = false;
  /// See Join.
  std::string settings{};  // NOLINT(readability-redundant-member-init): see ExecuteOptions
  std::string machine{};   // NOLINT(readability-redundant-member-init): see ExecuteOptions
};

/// One member's side of the protocol. A pure state machine: events and the time in, actions out.
///
/// Units    milliseconds of any clock that never goes back while the object lives.
/// Threads and streams   none; one call at a time.
/// Errors   the constructor throws LayoutError for an id of 0, a host that is empty or too
///          long, a machine that is too long, and deadlines in the wrong order. handle() refuses
///          nothing: what comes too late is counted.
/// Source   own; docs/design/membership.md.
class Worker {
 public:
  Worker(WorkerOptions options, std::int64_t now_ms);

  /// Returns what has to be done, in this order.
  /// Cost     O(1).
  [[nodiscard]] std::vector<WorkerAction> handle(std::int64_t now_ms, const WorkerEvent& event);

  [[nodiscard]] std::int64_t epoch() const { return epoch_; }
  [[nodiscard]] std::int64_t version() const { return version_; }
  [[nodiscard]] Activity activity() const { return activity_; }
  [[nodiscard]] bool has_ended() const { return has_ended_; }
  [[nodiscard]] std::int64_t num_stale() const { return num_stale_; }
  /// Why no step is allowed at this moment, in words; empty while one is.
  [[nodiscard]] std::string holds_because() const;

 private:
  struct OpenAttempt {
    Prepare asked;
    Stage stage = Stage::kNone;
    std::int64_t proposal = 0;
    std::int64_t step = 0;
    bool is_switching = false;
    std::optional<std::int64_t> deadline_ms =
        std::nullopt;  ///< of holding at the step, or of the decision
  };

  void on(const FromCoordinator& message);
  void on(const Welcome&);
  void on(const Refused& message);
  void on(const Heard&) {}
  void on(const Prepare& message);
  void on(const Propose& message);
  void on(const Go& message);
  void on(const Decision& message);
  void on(const Halt& message);
  void on(const Holds& message);
  void on(const Search& message);
  void on(const Forget& message);
  void on(const Released&);
  void on(const Lost& message);
  void on(const AtBoundary& event);
  void on(const StepBroke& event);
  void on(const PrepareDone& event);
  void on(const PrepareBroke& event);
  void on(const SwitchMoved& event);
  void on(const SwitchBroke& event);
  void on(const Stopped& event);
  void on(const Found& event);
  void on(const Copied& event);
  void on(const LeaveWanted& event);
  void on(const ScriptFinished&);
  void on(const Tick&);

  void go_on();
  void install();
  void discard();
  void forget_copies();
  void give_up(const std::string& why, bool is_refusal);
  void report();
  void send_heartbeat();
  void check_deadlines_passed();
  void tell(FromWorker message);
  void leave_as(EndReason reason, std::string why);
  void end(EndReason reason, std::string why);
  void stale() { ++num_stale_; }
  [[nodiscard]] bool is_open(std::int64_t attempt) const;
  [[nodiscard]] OpenAttempt& open();
  [[nodiscard]] const OpenAttempt& open() const;
  OpenAttempt close();
  [[nodiscard]] bool has_voted() const;
  [[nodiscard]] bool is_expected(const Prepare& message) const;
  [[nodiscard]] bool has_copies_for(const Prepare& asked) const;
  [[nodiscard]] bool is_expected(const Go& message) const;
  [[nodiscard]] bool stands_at_step() const;
  [[nodiscard]] bool may_train() const;

  WorkerOptions options_;
  std::int64_t now_ms_ = 0;
  std::vector<WorkerAction> out_;

  bool is_welcome_ = false;
  bool has_ended_ = false;
  std::int64_t epoch_ = 0;
  std::int64_t version_ = 0;    ///< completed steps
  std::int64_t num_begun_ = 0;  ///< steps begun; the one that begins with version v is number v
  bool is_at_boundary_ = false;
  Activity activity_ = Activity::kIdle;
  std::int64_t halted_epoch_ = 0;   ///< that Halt has named, 0 for none
  std::optional<Stopped> stopped_;  ///< what Halt has found; reported again when asked again
  std::int64_t copies_ = 0;         ///< the world that copies lead to, 0 where there are none
  bool is_copied_ = false;          ///< some of them are of the present world
  std::optional<std::int64_t> searched_epoch_;  ///< of the Search that is not answered yet
  std::optional<OpenAttempt> attempt_;
  std::int64_t closed_attempt_ = 0;
  std::int64_t draining_attempt_ = 0;  ///< its transfer has been told to end, and has not yet
  std::optional<std::int64_t> leave_by_ms_;
  std::optional<std::int64_t> gone_since_ms_;  ///< the state is, as the coordinator has said
  std::optional<std::int64_t> finish_by_ms_;   ///< the script is done, and the coordinator is told
  std::int64_t next_heartbeat_ms_ = 0;
  std::int64_t last_heard_ms_ = 0;
  std::int64_t num_stale_ = 0;
};

}  // namespace dynatrain::membership

#pragma once

#include "dynatrain/membership/coordinator.hpp"

#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <vector>

/// The coordinator's state and the steps of its protocol, one file for each concept. Every function
/// works at `state.now_ms` and appends to `state.out`.
namespace dynatrain::membership {

/// What the coordinator knows of a member that is neither lost nor released.
struct Live {
  std::int64_t last_heard_ms = 0;
  std::int64_t epoch = 0;
  std::int64_t version = 0;
  /// On the halt of the present world; where nobody has a state, on what it finds on disk.
  std::optional<Report> report = std::nullopt;
  bool is_asked = false;                ///< for a report
  std::int64_t search_deadline_ms = 0;  ///< of a report on what is on disk
  bool is_known = true;                 ///< a new coordinator has heard its place
  bool has_policy = false;              ///< its script has one
  std::int64_t copies = 0;              ///< the world that they lead to, 0 where it has none
  std::int64_t keep_until_ms = 0;       ///< so long it is not released for their sake
};

/// A script's policy was asked about those who are there now.
struct Consultation {
  std::int64_t number = 0;
  std::int64_t deadline_ms = 0;
  std::optional<Advice> advice = std::nullopt;
};

struct Participant {
  bool is_source = false;
  int target_rank = -1;
  Stage heard = Stage::kNone;
  bool has_refused = false;  ///< the present proposal
};

enum class AttemptPhase : std::uint8_t { kPreparing, kPromising, kVoting };

struct Attempt {
  Description description;
  AttemptPhase phase = AttemptPhase::kPreparing;
  std::map<MemberId, Participant> participants;
  std::size_t num_waiting = 0;  ///< participants that have not answered the present question
  std::int64_t proposal = 0;
  std::int64_t margin = 0;
  std::int64_t step = 0;
  std::int64_t deadline_ms = 0;

  [[nodiscard]] std::int64_t number() const { return description.attempt; }
  [[nodiscard]] bool is_recovery() const { return description.kind == ChangeKind::kRecovery; }
  [[nodiscard]] bool is_prepared_ahead() const {
    return !is_recovery() && !description.source.members.empty() &&
           description.cold_because.empty();
  }
};

/// A halted world on its way to the next one.
struct Recovery {
  std::int64_t report_deadline_ms = 0;
  std::size_t candidate = 0;  ///< versions before this one could not be put together
  /// One of these has failed for what may be the target's fault: another one might do.
  bool may_be_the_target = false;
  /// Why the state is gone, once all versions have failed. Members that end bring none of it back.
  std::string gone_because = {};  // NOLINT(readability-redundant-member-init)
};

/// What has come of attempts at one target.
struct Tried {
  std::string layout;
  std::vector<MemberId> members;
  int num_unprepared = 0;  ///< members could not prepare it beside training
  int num_refused = 0;     ///< members stood still, and could not take it
  std::string why;         ///< of the last one of either
};

struct CoordinatorState {
  CoordinatorOptions options;
  DurableState durable;
  std::int64_t now_ms = 0;
  std::vector<CoordinatorAction> out;

  std::map<MemberId, Live> live;
  std::set<MemberId> leaving;     ///< of those in `live`
  std::map<MemberId, int> ranks;  ///< of the present world
  std::optional<Attempt> attempt;
  std::optional<Recovery> recovery;
  /// Nobody who is there has a state: all are asked what they find on disk.
  bool is_orphaned = false;
  std::int64_t search_again_ms = 0;  ///< where nothing was found that can be put together
  std::size_t num_unreported = 0;    ///< members that are asked for a report, and are alive
  std::size_t num_unknown = 0;       ///< members that a new coordinator has not heard yet
  /// Copies that lead to a world before this one are of no use to the present one.
  std::int64_t copies_since = 0;

  bool is_over = false;      ///< it has abdicated
  bool is_new = true;        ///< nothing has been handled yet
  bool is_undecided = true;  ///< something has changed since the next world was last chosen
  std::int64_t first_change_ms = 0;
  std::int64_t quiet_until_ms = 0;     ///< more members may be about to join or leave
  std::int64_t back_off_until_ms = 0;  ///< after a failed attempt
  std::int64_t back_off_ms = 0;        ///< the next one
  std::string waits_for;               ///< why no attempt was begun when it was last considered
  bool is_state_gone = false;          ///< ... as no version can be put together from what is left
  std::string last_failure;
  std::vector<Tried> tried;                  ///< since membership or the wish last changed
  std::optional<Consultation> consultation;  ///< void when somebody comes or goes
  std::int64_t last_question = 0;
  std::int64_t num_stale = 0;

  std::int64_t last_heard_ms = 0;     ///< of anybody
  std::int64_t patient_until_ms = 0;  ///< nobody is lost for his silence before
};

// ---- records and messages (coordinator.cpp) ----------------------------------------------------

void persist(CoordinatorState& state, Record record);
void send(CoordinatorState& state, MemberId to, FromCoordinator message);

// ---- who is there (members.cpp) ----------------------------------------------------------------

void on_join(CoordinatorState& state, const Join& message);
void on_leave(CoordinatorState& state, MemberId id);
void on_gone(CoordinatorState& state, const Gone& message);
void on_resize(CoordinatorState& state, const Resize& event);
void lose(CoordinatorState& state, MemberId id, const std::string& why);
/// The member is there no more.
void forget(CoordinatorState& state, MemberId id);
/// Loses those that are not heard while others are.
void lose_silent_members(CoordinatorState& state);
/// Whether nobody is heard: it is the coordinator then that is cut off, and it loses nobody.
[[nodiscard]] bool is_cut_off(const CoordinatorState& state);
/// Somebody is heard, at this moment.
void note_heard(CoordinatorState& state);
/// What a member says that the ledger would have to know, and does not; empty where all fits.
[[nodiscard]] std::string contradiction(const CoordinatorState& state, const FromWorker& message);
/// Answers a member that cannot take part any more; false when it can.
[[nodiscard]] bool turn_away(CoordinatorState& state, MemberId id);
void release_those_who_leave(CoordinatorState& state);
/// A member in words, with its place and host where they are known.
[[nodiscard]] std::string name_of(const CoordinatorState& state, MemberId id);
[[nodiscard]] bool is_in_world(const CoordinatorState& state, MemberId id);
/// The present world is another one.
void note_world(CoordinatorState& state);
/// The members of the present world that are neither lost nor released, in its order.
[[nodiscard]] std::vector<MemberId> alive_in_world(const CoordinatorState& state);
/// Whether a member has no place in the present world, and copies that may be needed there.
[[nodiscard]] bool is_former_member(const CoordinatorState& state, MemberId id, const Live& live);
[[nodiscard]] std::vector<MemberId> former_members(const CoordinatorState& state);
/// Membership or the wish has changed: what was put off is considered again.
void note_change(CoordinatorState& state);

// ---- the next world (choice.cpp) ---------------------------------------------------------------

void on_advises(CoordinatorState& state, MemberId id);
void on_advice(CoordinatorState& state, const Advice& event);
/// Whether a world may be chosen: where a script has a policy, asks it first, for a while.
[[nodiscard]] bool is_advised(CoordinatorState& state);
/// The policy's choice, or one without members that says what is wrong with it.
[[nodiscard]] PolicyChoice choose_world(const CoordinatorState& state);
/// What has come of attempts at a target so far.
[[nodiscard]] Tried& tried(CoordinatorState& state,
                           const std::string& layout,
                           const std::vector<MemberId>& members);
/// What is not tried now, as it was refused so often.
[[nodiscard]] std::vector<RefusedLayout> refused_layouts(const CoordinatorState& state);
/// Begins the planned change that is due, if one is.
void consider_change(CoordinatorState& state);

// ---- what is under way (coordinator.cpp) --------------------------------------------------------

/// The open attempt, or the recovery, of a state that has one.
[[nodiscard]] Attempt& open_attempt(CoordinatorState& state);
[[nodiscard]] Recovery& open_recovery(CoordinatorState& state);
/// Why nothing is under way, as long as nothing is; empty while something is, or is about to be.
[[nodiscard]] std::string stands_because(const CoordinatorState& state);

// ---- one attempt (attempt.cpp) -----------------------------------------------------------------

void begin_attempt(CoordinatorState& state, Description description);
[[nodiscard]] Prepare prepare_for(const Attempt& attempt, const Participant& participant);
void on_prepared(CoordinatorState& state, const Prepared& message);
void on_prepare_failed(CoordinatorState& state, const PrepareFailed& message);
void on_promise(CoordinatorState& state, const Promise& message);
void on_vote(CoordinatorState& state, const Vote& message);
void abort_attempt(CoordinatorState& state, const std::string& why);
void check_attempt_deadline(CoordinatorState& state);

// ---- after a failure (recovery.cpp) ------------------------------------------------------------

void halt_world(CoordinatorState& state, const std::string& why);
void on_step_failed(CoordinatorState& state, const StepFailed& message);
void on_report(CoordinatorState& state, const Report& message);
/// Asks a member for a report, in the message that the caller sends.
void expect_report(CoordinatorState& state, Live& live);
/// Goes on with a recovery as far as it can now.
void consider_recovery(CoordinatorState& state);
/// Versions are tried from the first one on.
void try_all_versions(CoordinatorState& state);
/// Versions that could be gone on from, the best first.
[[nodiscard]] std::vector<std::int64_t> candidates(const CoordinatorState& state);

// ---- where nobody has a state (search.cpp) -----------------------------------------------------

/// Asks all who are there what they find on disk, and have copies of.
void begin_search(CoordinatorState& state);
/// As begin_search(), at times, where what was found did not do: a folder may be there later.
void search_again(CoordinatorState& state);
/// Asks one who came later, or has not heard.
void ask_for_versions(CoordinatorState& state, MemberId id);
/// Loses those that have not answered in time.
void lose_late_searchers(CoordinatorState& state);
/// Asked for and not there yet: reports of what is left, or of what is on disk.
[[nodiscard]] inline bool lacks_reports(const CoordinatorState& state) {
  return state.num_unreported > 0;
}

// ---- repair (heartbeat.cpp) --------------------------------------------------------------------

/// Takes a heartbeat for all that it says, and sends again what the member has not heard.
void on_heartbeat(CoordinatorState& state, const Heartbeat& message);

}  // namespace dynatrain::membership

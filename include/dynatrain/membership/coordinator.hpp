#pragma once

#include "dynatrain/membership/deadlines.hpp"
#include "dynatrain/membership/ledger.hpp"
#include "dynatrain/membership/messages.hpp"
#include "dynatrain/membership/policy.hpp"
#include "dynatrain/membership/status.hpp"

#include <cstdint>
#include <memory>
#include <string>
#include <variant>
#include <vector>

namespace dynatrain::membership {

/// The operator wishes for a layout; empty takes the wish back.
struct Resize {
  std::string layout;
};
/// The operator wants a member out of the world, and released.
struct Drain {
  MemberId id;
};
struct ConnectionClosed {
  MemberId id;
};
/// The member's script has a policy: it is asked before a world is chosen.
struct Advises {
  MemberId id;
};
struct Tick {};

using CoordinatorEvent =
    std::variant<FromWorker, Resize, Drain, ConnectionClosed, Advises, Advice, Tick>;

/// To be on disk before any later action of the same list is carried out.
struct Persist {
  Record record;
};
/// To be readable by all who are asked to prepare, before they are asked.
struct Publish {
  Description description;
};
struct Send {
  MemberId to;
  FromCoordinator message;
};

/// A world is to be chosen: the policy of this member's script is to be asked, with who is there
/// now. The answer comes as Advice of this number; any may be late, or missing.
struct Consult {
  std::int64_t number = 0;
  MemberId to;
};

/// The ledger is not the one that the members were told of: the process ends, and nothing follows.
/// They train on without it.
struct Abdicate {
  std::string why;
};

using CoordinatorAction = std::variant<Persist, Publish, Send, Consult, Abdicate>;

struct CoordinatorOptions {
  Policy policy;
  Deadlines deadlines = make_deadlines();
  std::int64_t first_version = 0;  ///< completed steps with which the first world begins
  std::int64_t step_margin = 2;    ///< steps between the newest version and a first proposal
  int max_proposals = 6;           ///< of one attempt; the margin doubles with each
  /// Of one target: after so many attempts that members could not prepare beside training,
  /// they prepare it in the stop; after so many that they refused there, or that they could not
  /// take in a recovery, it is passed over until membership or the wish changes.
  int max_unprepared = 3;
  int max_refused = 2;
};

struct CoordinatorState;

/// Decides who trains with whom. A pure state machine: events and the time in, actions out.
///
/// Units    milliseconds of any clock that never goes back while the object lives.
/// Threads and streams   none; one call at a time.
/// Errors   the constructor throws LayoutError for options that do not fit together and for a
///          ledger that is none. handle() refuses nothing: what makes no sense is counted as stale.
/// Source   own; docs/design/membership.md.
class Coordinator {
 public:
  /// Goes on from what a ledger says, or from nothing. The members in it have `lost_after_ms` from
  /// now on to be heard.
  Coordinator(CoordinatorOptions options, DurableState durable, std::int64_t now_ms);
  Coordinator(const Coordinator& other);
  Coordinator& operator=(const Coordinator& other);
  Coordinator(Coordinator&&) noexcept;
  Coordinator& operator=(Coordinator&&) noexcept;
  ~Coordinator();

  /// Returns what has to be done, in this order. A caller that stops in the middle starts a new
  /// coordinator from the ledger.
  /// Cost     O(log members) for a message, O(members) for a tick or where all are told something.
  [[nodiscard]] std::vector<CoordinatorAction> handle(std::int64_t now_ms,
                                                      const CoordinatorEvent& event);
  [[nodiscard]] Status status(std::int64_t now_ms) const;
  /// Why no switch follows to a layout that was wished for in an epoch: the job has been in it
  /// since, its members refuse it, or another one was wished for. Empty where one may still come.
  /// Cost     O(layouts).
  [[nodiscard]] std::string why_not(const std::string& layout, std::int64_t epoch) const;
  /// Why no change is under way, as long as none is; empty while one is, or is about to be chosen.
  /// Cost     O(1).
  [[nodiscard]] std::string stands_because() const;
  /// Equal to replay_ledger() of every record that handle() has asked to persist, and of those the
  /// coordinator was made from.
  [[nodiscard]] const DurableState& durable() const;

 private:
  std::unique_ptr<CoordinatorState> state_;
};

}  // namespace dynatrain::membership

#include "dynatrain/base/error.hpp"
#include "dynatrain/membership/worker.hpp"

#include "base/clipped.hpp"
#include <utility>

/// A member's part in an attempt: prepare, promise, switch, vote, and what the decision makes of
/// it.
namespace dynatrain::membership {

bool Worker::is_open(std::int64_t attempt) const {
  return attempt_ && attempt_->asked.attempt == attempt;
}

Worker::OpenAttempt& Worker::open() {
  DYNATRAIN_CHECK(attempt_.has_value(), "a member was to go on in an attempt that is not open");
  return *attempt_;
}

const Worker::OpenAttempt& Worker::open() const {
  DYNATRAIN_CHECK(attempt_.has_value(), "a member was asked of an attempt that is not open");
  return *attempt_;
}

Worker::OpenAttempt Worker::close() {
  const OpenAttempt closed = open();
  attempt_.reset();
  closed_attempt_ = closed.asked.attempt;
  return closed;
}

bool Worker::has_voted() const {
  return attempt_ && attempt_->stage == Stage::kVoted;
}

bool Worker::is_expected(const Prepare& message) const {
  const bool is_new =
      message.attempt > closed_attempt_ && (!attempt_ || message.attempt > open().asked.attempt);
  // Whoever has voted hears that decision before anything else.
  if (!is_welcome_ || !is_new || has_voted() || finish_by_ms_) {
    return false;
  }
  if (!message.is_source) {
    return epoch_ == 0;
  }
  const Activity wanted =
      message.kind == ChangeKind::kRecovery ? Activity::kHalted : Activity::kTraining;
  return message.source_epoch == epoch_ && activity_ == wanted;
}

void Worker::on(const Prepare& message) {
  if (!is_expected(message)) {
    stale();
    return;
  }
  if (attempt_) {
    // It was aborted: it could not have been committed without this member's vote.
    discard();
  }
  if (copies_ != 0 && message.kind == ChangeKind::kRecovery && !has_copies_for(message)) {
    forget_copies();  // nobody has asked for them: they may be of steps that were undone
  }
  attempt_ = OpenAttempt{.asked = message};
  out_.emplace_back(RunPrepare{message.attempt});
}

void Worker::on(const PrepareDone& event) {
  if (!is_open(event.attempt) || open().stage != Stage::kNone) {
    stale();
    return;
  }
  open().stage = Stage::kPrepared;
  tell(Prepared{options_.id, event.attempt, version_});
}

void Worker::on(const PrepareBroke& event) {
  if (!is_open(event.attempt) || open().stage != Stage::kNone) {
    stale();
    return;
  }
  tell(PrepareFailed{options_.id,
                     event.attempt,
                     clipped(event.why, kMaxWhyBytes),
                     event.is_uncovered,
                     event.is_refusal});
  discard();
}

void Worker::on(const Propose& message) {
  if (!is_open(message.attempt) || open().stage < Stage::kPrepared ||
      open().stage >= Stage::kAgreed || message.proposal <= open().proposal) {
    stale();
    return;
  }
  const bool is_yes = num_begun_ <= message.step;
  open().proposal = message.proposal;
  open().step = message.step;
  open().stage = is_yes ? Stage::kPromised : Stage::kPrepared;
  open().deadline_ms.reset();
  tell(Promise{options_.id, message.attempt, message.proposal, is_yes, version_});
}

bool Worker::is_expected(const Go& message) const {
  if (!is_open(message.attempt)) {
    return false;
  }
  const bool has_promised = open().asked.is_source && open().asked.kind == ChangeKind::kPlanned;
  if (has_promised) {
    return open().stage == Stage::kPromised && message.proposal == open().proposal &&
           message.step == open().step;
  }
  return open().stage == Stage::kPrepared;
}

void Worker::on(const Go& message) {
  if (!is_expected(message)) {
    stale();
    return;
  }
  open().stage = Stage::kAgreed;
  open().step = message.step;
  open().deadline_ms.reset();
}

bool Worker::stands_at_step() const {
  if (!open().asked.is_source) {
    return true;
  }
  if (open().asked.kind == ChangeKind::kRecovery) {
    return stopped_.has_value();
  }
  return is_at_boundary_ && version_ == open().step;
}

bool Worker::may_train() const {
  if (epoch_ == 0 || activity_ != Activity::kTraining || !is_at_boundary_ || finish_by_ms_ ||
      draining_attempt_ != 0) {
    return false;
  }
  const bool is_bound = attempt_ && open().stage >= Stage::kPromised;
  return !is_bound || version_ < open().step;
}

void Worker::go_on() {
  if (attempt_ && open().stage == Stage::kAgreed && !open().is_switching &&
      draining_attempt_ == 0 && stands_at_step()) {
    open().is_switching = true;
    out_.emplace_back(RunSwitch{open().asked.attempt, open().step});
  }
  if (attempt_ && open().stage == Stage::kPromised && !open().deadline_ms && stands_at_step()) {
    open().deadline_ms = now_ms_ + options_.deadlines.hold_ms;
  }
  if (may_train()) {
    is_at_boundary_ = false;
    num_begun_ = version_ + 1;
    out_.emplace_back(Train{epoch_, version_});
  }
}

void Worker::on(const SwitchMoved& event) {
  if (event.attempt == draining_attempt_) {
    draining_attempt_ = 0;
    return;
  }
  if (!is_open(event.attempt) || !open().is_switching) {
    stale();
    return;
  }
  open().is_switching = false;
  open().stage = Stage::kVoted;
  open().deadline_ms = now_ms_ + options_.deadlines.decision_ms;
  tell(Vote{options_.id, event.attempt, true, {}, false});
}

void Worker::on(const SwitchBroke& event) {
  if (event.attempt == draining_attempt_) {
    draining_attempt_ = 0;
    return;
  }
  if (!is_open(event.attempt) || !open().is_switching) {
    stale();
    return;
  }
  open().is_switching = false;
  give_up(event.why, event.is_refusal);
}

void Worker::on(const Decision& message) {
  if (!is_open(message.attempt) || (message.is_commit && !has_voted())) {
    stale();
    return;
  }
  if (message.is_commit) {
    install();
  } else {
    discard();
  }
}

/// Whether its copies lead to the state of the world that the attempt begins with.
bool Worker::has_copies_for(const Prepare& asked) const {
  if (copies_ == 0 || asked.is_source) {
    return copies_ != 0;
  }
  return asked.kind == ChangeKind::kRecovery ? halted_epoch_ == asked.source_epoch
                                             : copies_ == asked.source_epoch;
}

void Worker::install() {
  const OpenAttempt attempt = close();
  if (has_copies_for(attempt.asked)) {
    copies_ = attempt.asked.target_epoch;
  } else if (copies_ != 0 || (attempt.asked.is_source && attempt.asked.target_rank < 0)) {
    forget_copies();  // they lead elsewhere, or are not whole
  }
  is_copied_ = false;
  halted_epoch_ = 0;
  stopped_.reset();
  gone_since_ms_.reset();
  is_at_boundary_ = attempt.asked.target_rank >= 0;
  if (attempt.asked.target_rank < 0) {
    epoch_ = 0;
    activity_ = Activity::kIdle;
    out_.emplace_back(Retire{attempt.asked.attempt, attempt.step});
    return;
  }
  epoch_ = attempt.asked.target_epoch;
  version_ = attempt.step;
  num_begun_ = attempt.step;
  activity_ = Activity::kTraining;
  out_.emplace_back(Install{attempt.asked.attempt, epoch_, version_});
  tell(Installed{options_.id, epoch_, version_});
}

void Worker::forget_copies() {
  copies_ = 0;
  out_.emplace_back(ForgetCopies{});
}

void Worker::give_up(const std::string& why, bool is_refusal) {
  tell(Vote{options_.id, open().asked.attempt, false, clipped(why, kMaxWhyBytes), is_refusal});
  discard();
}

void Worker::discard() {
  const OpenAttempt attempt = close();
  if (attempt.is_switching) {
    draining_attempt_ = closed_attempt_;
  }
  out_.emplace_back(Discard{closed_attempt_});
}

std::string Worker::holds_because() const {
  if (has_ended_) {
    return "the process has ended";
  }
  if (!is_welcome_) {
    return "the coordinator has not answered yet";
  }
  if (activity_ == Activity::kIdle) {
    return attempt_ ? "joins in attempt " + std::to_string(open().asked.attempt) : "is in no world";
  }
  if (activity_ == Activity::kBroken) {
    return "its step has failed, and the coordinator has not answered yet";
  }
  if (activity_ == Activity::kHalted) {
    return attempt_ ? "recovers in attempt " + std::to_string(open().asked.attempt)
                    : "its world is halted";
  }
  if (draining_attempt_ != 0) {
    return "a transfer that was given up has not ended yet";
  }
  if (is_at_boundary_ && attempt_) {
    return "stands at step " + std::to_string(open().step) + " of attempt " +
           std::to_string(open().asked.attempt);
  }
  return {};
}

}  // namespace dynatrain::membership

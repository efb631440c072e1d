#include "dynatrain/membership/worker.hpp"

#include "dynatrain/base/error.hpp"
#include "dynatrain/membership/text.hpp"

#include <algorithm>
#include <array>
#include <utility>

namespace dynatrain::membership {
namespace {

void check_options(const WorkerOptions& options) {
  check_deadlines(options.deadlines);
  if (options.id.value == 0 || options.host.empty() || options.host.size() > kMaxHostBytes ||
      options.machine.size() > kMaxHostBytes) {
    throw LayoutError(
        "membership: cannot make a member with id " + std::to_string(options.id.value) +
        " and a host's name of " + std::to_string(options.host.size()) +
        " bytes, on a machine with one of " + std::to_string(options.machine.size()) +
        " bytes\n  the id is not 0, the names have up to " + std::to_string(kMaxHostBytes) +
        " bytes, a host's is not empty\n  nothing was started");
  }
}

/// As many as a report has room for.
std::vector<std::int64_t> newest_first(std::vector<std::int64_t> versions) {
  std::ranges::sort(versions, std::greater<>());
  versions.resize(std::min(versions.size(), kMaxSnapshots));
  return versions;
}

}  // namespace

Worker::Worker(WorkerOptions options, std::int64_t now_ms)
    : options_(std::move(options)), next_heartbeat_ms_(now_ms), last_heard_ms_(now_ms) {
  check_options(options_);
}

std::vector<WorkerAction> Worker::handle(std::int64_t now_ms, const WorkerEvent& event) {
  now_ms_ = now_ms;
  out_.clear();
  if (has_ended_) {
    return {};
  }
  std::visit([this](const auto& one) { on(one); }, event);
  if (!has_ended_) {
    go_on();
  }
  return std::exchange(out_, {});
}

void Worker::on(const FromCoordinator& message) {
  last_heard_ms_ = now_ms_;
  std::visit([this](const auto& one) { on(one); }, message);
}

void Worker::on(const Welcome&) {
  is_welcome_ = true;
}

void Worker::on(const Refused& message) {
  end(message.is_over ? EndReason::kOver : EndReason::kRefused, message.why);
}

void Worker::on(const Released&) {
  end(finish_by_ms_ ? EndReason::kFinished : EndReason::kReleased, {});
}

void Worker::on(const Lost& message) {
  end(finish_by_ms_ ? EndReason::kFinished : EndReason::kLost, message.why);
}

void Worker::on(const AtBoundary& event) {
  if (epoch_ == 0 || activity_ != Activity::kTraining || event.version != num_begun_) {
    stale();
    return;
  }
  version_ = event.version;
  is_at_boundary_ = true;
}

void Worker::on(const StepBroke& event) {
  if (activity_ != Activity::kTraining || has_voted()) {
    stale();
    return;
  }
  activity_ = Activity::kBroken;
  is_at_boundary_ = false;
  StepFailed message{options_.id, epoch_, event.suspects};
  message.suspects.resize(std::min(message.suspects.size(), kMaxSuspects));
  tell(std::move(message));
  if (attempt_) {
    give_up("a step failed", false);
  }
}

void Worker::on(const Halt& message) {
  const bool is_own = epoch_ != 0 && message.epoch == epoch_;
  const bool is_for_copies = epoch_ == 0 && copies_ != 0 && message.epoch >= copies_;
  if ((!is_own && !is_for_copies) || finish_by_ms_) {
    stale();
    return;
  }
  if (halted_epoch_ == message.epoch) {
    report();
    return;
  }
  if (has_voted()) {
    // Whoever has voted hears the decision first: the next heartbeat asks for it.
    stale();
    return;
  }
  if (attempt_) {
    discard();
  }
  activity_ = is_own ? Activity::kHalted : activity_;
  halted_epoch_ = message.epoch;
  stopped_.reset();
  is_at_boundary_ = false;
  draining_attempt_ = 0;  // Stopped says that it has ended, too
  out_.emplace_back(StopStep{message.epoch, message.why});
}

void Worker::on(const Stopped& event) {
  if (halted_epoch_ == 0 || stopped_) {
    stale();
    return;
  }
  stopped_ = event;
  stopped_->snapshot_versions = newest_first(event.snapshot_versions);
  stopped_->is_clean = event.is_clean && epoch_ != 0;
  version_ = event.version;
  report();
}

void Worker::on(const Holds& message) {
  if (!is_welcome_ || attempt_ || finish_by_ms_ || activity_ == Activity::kTraining) {
    stale();
    return;
  }
  out_.emplace_back(StandStill{message.why, message.is_gone});
  if (!message.is_gone) {
    gone_since_ms_.reset();
    return;
  }
  gone_since_ms_ = gone_since_ms_.value_or(now_ms_);
  const bool is_patient = options_.has_checkpoints && !leave_by_ms_;
  if (now_ms_ < *gone_since_ms_ + (is_patient ? options_.deadlines.give_up_ms : 0)) {
    return;
  }
  if (epoch_ == 0 && leave_by_ms_) {  // it has asked to, and has stayed for its copies
    leave_as(EndReason::kReleased, {});
  } else {
    leave_as(EndReason::kStateGone, message.why);
  }
}

void Worker::on(const Search& message) {
  // Asked again while it looks, it answers once.
  if (!is_welcome_ || epoch_ != 0 || attempt_ || std::exchange(searched_epoch_, message.epoch)) {
    stale();
    return;
  }
  if (copies_ != 0 && copies_ < message.copies_since) {
    forget_copies();
  }
  if (copies_ != 0) {
    halted_epoch_ = message.epoch;  // what it has takes part
  }
  out_.emplace_back(FindVersions{});
}

void Worker::on(const Found& event) {
  if (!searched_epoch_) {
    stale();
    return;
  }
  tell(Report{options_.id, *searched_epoch_, 0, false, newest_first(event.versions)});
  searched_epoch_.reset();
}

void Worker::on(const Copied& event) {
  if (epoch_ == 0 || event.epoch != epoch_) {
    stale();
    return;
  }
  copies_ = event.is_on_disk ? copies_ : epoch_;
  is_copied_ = true;
}

void Worker::on(const Forget& message) {
  // What an attempt may need is kept; the next heartbeat asks again.
  if (epoch_ != 0 || copies_ == 0 || copies_ >= message.epoch || attempt_) {
    stale();
    return;
  }
  forget_copies();
}

void Worker::report() {
  if (stopped_) {
    tell(Report{options_.id,
                halted_epoch_,
                stopped_->version,
                stopped_->is_clean,
                stopped_->snapshot_versions});
  }
}

void Worker::on(const LeaveWanted& event) {
  if (!is_welcome_) {  // nobody counts on it
    leave_as(EndReason::kReleased, {});
    return;
  }
  const std::int64_t grace_ms = std::clamp<std::int64_t>(event.grace_ms, 0, kMaxNumber);
  leave_by_ms_ = now_ms_ + grace_ms;
  tell(Leave{options_.id, grace_ms});
}

void Worker::on(const ScriptFinished&) {
  if (has_voted() || finish_by_ms_) {
    stale();
    return;
  }
  if (attempt_) {
    discard();
  }
  finish_by_ms_ = now_ms_ + options_.deadlines.report_ms;
  tell(Gone{options_.id, true});
}

void Worker::on(const Tick&) {
  check_deadlines_passed();
  if (has_ended_ || now_ms_ < next_heartbeat_ms_) {
    return;
  }
  next_heartbeat_ms_ = now_ms_ + options_.deadlines.heartbeat_ms;
  if (finish_by_ms_) {
    tell(Gone{options_.id, true});
  } else if (is_welcome_) {
    send_heartbeat();
  } else {
    tell(Join{options_.id, options_.host, options_.settings, options_.machine});
  }
}

void Worker::send_heartbeat() {
  Heartbeat message;
  message.id = options_.id;
  message.epoch = epoch_;
  message.version = version_;
  if (attempt_) {
    message.attempt = attempt_->asked.attempt;
    message.stage = attempt_->stage;
    message.proposal = attempt_->proposal;
  }
  message.closed_attempt = closed_attempt_;
  message.activity = activity_;
  message.is_leaving = leave_by_ms_.has_value();
  message.copies = copies_;
  message.is_copied = is_copied_;
  tell(message);
}

void Worker::check_deadlines_passed() {
  const auto has_passed = [this](const std::optional<std::int64_t>& deadline_ms) {
    return deadline_ms && now_ms_ >= *deadline_ms;
  };
  if (has_passed(finish_by_ms_)) {
    end(EndReason::kFinished, "the coordinator has not answered");
  } else if (has_passed(leave_by_ms_)) {
    const bool is_free = epoch_ == 0 && !attempt_;
    leave_as(is_free ? EndReason::kReleased : EndReason::kGraceOver,
             is_free ? "" : "the grace was over before the member was released");
  } else if (attempt_ && has_passed(attempt_->deadline_ms)) {
    if (has_voted()) {
      end(EndReason::kUndecided,
          "the decision on attempt " + std::to_string(attempt_->asked.attempt) +
              " could not be learnt; the state may be one of two, and is in neither world");
    } else {
      give_up("the others have not promised in time", false);
    }
  } else if (activity_ != Activity::kTraining &&
             now_ms_ >= last_heard_ms_ + options_.deadlines.abandon_ms) {
    end(EndReason::kAbandoned, "the coordinator is not heard, and without it nothing goes on");
  }
}

void Worker::tell(FromWorker message) {
  out_.emplace_back(Tell{std::move(message)});
}

void Worker::leave_as(EndReason reason, std::string why) {
  tell(Gone{options_.id, false});
  end(reason, std::move(why));
}

void Worker::end(EndReason reason, std::string why) {
  has_ended_ = true;
  out_.emplace_back(End{reason, std::move(why)});
}

}  // namespace dynatrain::membership

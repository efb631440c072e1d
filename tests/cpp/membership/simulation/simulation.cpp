#include "membership/simulation/simulation.hpp"

#include "dynatrain/membership/text.hpp"
#include "dynatrain/membership/trace.hpp"

#include "membership/overloaded.hpp"
#include <algorithm>
#include <cstdio>

namespace dynatrain::membership::simulation {
namespace {

/// After the faults have stopped: far beyond what any chain of deadlines takes.
constexpr std::int64_t kBoundMs = 40'000;
/// ... and far beyond what a heartbeat and its answer take.
constexpr std::int64_t kRepairMs = 1000;

/// A protocol that answers answers fills the memory before its time is up. No run of the first
/// 20,000 seeds has more than 7,000 happenings, or more than 400 to come.
constexpr std::int64_t kMaxHappenings = 100'000;
constexpr std::size_t kMaxToCome = 10'000;

}  // namespace

Simulation::Simulation(Scenario scenario, bool is_verbose)
    : scenario_(std::move(scenario)), is_verbose_(is_verbose), random_(scenario_.seed ^ 0x5eedULL) {
  if (scenario_.begin_at > 0) {
    checkpoints_[scenario_.begin_at] = {random_.next(), 0};
  }
  start_coordinator();
  for (int i = 0; i < scenario_.num_workers; ++i) {
    queue_.put(random_.between(0, 300), What::kStartProcess);
  }
  for (std::size_t i = 0; i < scenario_.incidents.size(); ++i) {
    queue_.put(scenario_.incidents[i].at_ms, What::kIncident, i);
  }
  queue_.put(scenario_.quiet_at_ms, What::kHeal, 0, 1);
  queue_.put(1, What::kCoordinatorTick);
}

Outcome Simulation::run() {
  try {
    while (true) {
      const Happening happening = queue_.take();
      now_ms_ = happening.at_ms;
      ++outcome_.num_happenings;
      happen(happening);
      outcome_.most_to_come = std::max(outcome_.most_to_come, queue_.size());
      if (outcome_.num_happenings > kMaxHappenings || queue_.size() > kMaxToCome) {
        throw Violation("a storm: " + std::to_string(outcome_.num_happenings) +
                        " happenings, and " + std::to_string(queue_.size()) + " to come");
      }
      if (happening.what == What::kCoordinatorTick && is_quiet()) {
        if (is_well()) {
          break;
        }
        if (now_ms_ > scenario_.quiet_at_ms + kBoundMs) {
          throw Violation("not well " + std::to_string(kBoundMs) + " ms after the faults\n" +
                          describe_end());
        }
      }
    }
  } catch (const std::exception& error) {
    outcome_.violation = "at " + std::to_string(now_ms_) + " ms: " + error.what();
  }
  return outcome_;
}

void Simulation::note(const std::string& who, const std::string& lines) const {
  std::printf("---- %s\n%s", who.c_str(), lines.c_str());
}

void Simulation::happen(const Happening& happening) {
  switch (happening.what) {
    case What::kToCoordinator: {
      const Payload payload = queue_.take_payload(happening);
      hear(std::get<FromWorker>(payload));
      break;
    }
    case What::kAdvice:
      answer(happening);
      break;
    case What::kConnectionClosed:
      feed_coordinator(ConnectionClosed{processes_.at(happening.process)->id});
      break;
    case What::kCoordinatorTick:
      feed_coordinator(Tick{});
      queue_.put(now_ms_ + simulated_deadlines().tick_ms, What::kCoordinatorTick);
      break;
    case What::kRestartCoordinator:
      if (!coordinator_) {
        start_coordinator();
      }
      break;
    case What::kIncident:
      begin_incident(scenario_.incidents.at(happening.process));
      break;
    case What::kHeal:
      if (happening.token == 1) {
        begin_quiet();
      }
      heal();
      break;
    case What::kStartProcess:
      start_process();
      break;
    default:
      happen_to_process(happening, *processes_.at(happening.process));
  }
}

void Simulation::happen_to_process(const Happening& happening, Process& process) {
  if (!process.is_alive) {
    (void)queue_.take_payload(happening);
    return;
  }
  if (now_ms_ < process.paused_until_ms) {
    // What comes during a pause waits for its end, and then comes in no order.
    queue_.put_again(happening, process.paused_until_ms + random_.between(0, 20));
    return;
  }
  const Payload payload = queue_.take_payload(happening);
  const bool is_of_step = process.step && process.step->token == happening.token;
  const bool is_of_transfer = process.transfer && process.transfer->token == happening.token;
  if (happening.what == What::kToWorker) {
    feed(process, std::get<FromCoordinator>(payload));
  } else if (happening.what == What::kLocal) {
    const WorkerEvent& event = std::get<WorkerEvent>(payload);
    const auto* const broke = std::get_if<SwitchBroke>(&event);
    if (broke != nullptr && broke->attempt == process.drains) {
      process.drains = 0;
    }
    feed(process, event);
  } else if (happening.what == What::kWorkerTick) {
    feed(process, Tick{});
    queue_.put(now_ms_ + simulated_deadlines().tick_ms, What::kWorkerTick, happening.process);
  } else if (happening.what == What::kStepEnds && is_of_step) {
    end_step(process);
  } else if (happening.what == What::kStepRetry && is_of_step && !process.step->has_met) {
    retry_step(process);
  } else if (happening.what == What::kStepTimesOut && is_of_step && !process.step->has_met) {
    process.step.reset();
    feed(process, StepBroke{});
  } else if (happening.what == What::kSwitchEnds && is_of_transfer) {
    end_transfer(process);
  } else if (happening.what == What::kSwitchRetry && is_of_transfer && !process.transfer->has_met) {
    retry_transfer(process);
  } else if (happening.what == What::kSwitchTimesOut && is_of_transfer &&
             !process.transfer->has_met) {
    const std::int64_t attempt = std::exchange(process.transfer, std::nullopt)->number;
    feed(process, SwitchBroke{attempt, "the others did not come"});
  }
}

void Simulation::start_process() {
  const MemberId id{processes_.size() + 1};
  WorkerOptions options;
  options.id = id;
  options.host = "host-" + std::to_string(id.value % 4);
  options.deadlines = simulated_deadlines();
  options.has_checkpoints = scenario_.has_checkpoints;
  processes_.push_back(std::make_unique<Process>(Worker(options, now_ms_)));
  processes_.back()->id = id;
  processes_.back()->has_policy = random_.percent(scenario_.policy_percent);
  queue_.put(now_ms_, What::kWorkerTick, processes_.size() - 1);
}

void Simulation::start_coordinator() {
  CoordinatorOptions options;
  options.policy = first_that_fits(scenario_.layouts);
  options.deadlines = simulated_deadlines();
  coordinator_.emplace(std::move(options), replay_ledger(disk_), now_ms_);
  ++num_coordinators_;
}

void Simulation::hear(const FromWorker& message) {
  feed_coordinator(message);
  tell_of_policy(process_of(std::visit([](const auto& one) { return one.id; }, message)));
}

void Simulation::feed_coordinator(const CoordinatorEvent& event) {
  if (!coordinator_) {
    return;
  }
  const std::vector<CoordinatorAction> actions = coordinator_->handle(now_ms_, event);
  if (is_verbose_ && (!actions.empty() || !std::holds_alternative<Tick>(event))) {
    note("coordinator", trace_of(now_ms_, event, actions));
  }
  for (const CoordinatorAction& action : actions) {
    if (crash_behind_ && (*crash_behind_)-- == 0) {
      crash_behind_.reset();
      coordinator_.reset();
      queue_.put(now_ms_ + down_for_ms_, What::kRestartCoordinator);
      return;
    }
    if (const auto* persisted = std::get_if<Persist>(&action)) {
      oracle_.on_persist(persisted->record);
      outcome_.num_worlds += std::holds_alternative<AttemptCommitted>(persisted->record) ? 1 : 0;
      outcome_.num_halts += std::holds_alternative<WorldHalted>(persisted->record) ? 1 : 0;
      disk_.push_back(persisted->record);
    } else if (const auto* published = std::get_if<Publish>(&action)) {
      oracle_.on_publish(published->description);
    } else if (const auto* consulted = std::get_if<Consult>(&action)) {
      consult(*consulted);
    } else if (const auto* gone = std::get_if<Abdicate>(&action)) {
      throw Violation("the coordinator doubts its ledger: " + gone->why);
    } else {
      const Send& send = std::get<Send>(action);
      oracle_.on_coordinator_sends(send);
      if (std::holds_alternative<Forget>(send.message)) {
        process_of(send.to).left_for = 0;
      }
      transmit(process_of(send.to), What::kToWorker, send.message);
    }
  }
}

void Simulation::feed(Process& process, const WorkerEvent& event) {
  const std::vector<WorkerAction> actions = process.machine.handle(now_ms_, event);
  if (is_verbose_ && (!actions.empty() || !std::holds_alternative<Tick>(event))) {
    note("member " + std::to_string(process.id.value), trace_of(now_ms_, event, actions));
  }
  for (const WorkerAction& action : actions) {
    carry_out(process, action);
  }
}

void Simulation::put_local(const Process& process, std::int64_t delay_ms, WorkerEvent event) {
  queue_.put(now_ms_ + delay_ms, What::kLocal, process.id.value - 1, 0, std::move(event));
}

void Simulation::end_process(Process& process) {
  process.is_alive = false;
  process.step.reset();
  process.transfer.reset();
  if (random_.percent(50)) {
    queue_.put(now_ms_ + random_.between(1, 60), What::kConnectionClosed, process.id.value - 1);
  }
}

void Simulation::carry_out(Process& process, const WorkerAction& action) {
  std::visit(Overloaded{
                 [&](const Tell& one) {
                   oracle_.on_member_tells(process.id, one.message);
                   transmit(process, What::kToCoordinator, one.message);
                 },
                 [&](const Train& one) { begin_step(process, one); },
                 [&](const RunPrepare& one) { prepare(process, one); },
                 [&](const RunSwitch& one) { begin_transfer(process, one); },
                 [&](const Discard& one) { discard(process, one); },
                 [&](const Install& one) { install(process, one); },
                 [&](const Retire& one) {
                   oracle_.on_retire(process.id, one);
                   process.left_for = oracle_.published().at(one.attempt).target.epoch;
                   process.data = {.snapshots = std::move(process.data.snapshots)};
                   std::erase_if(process.data.snapshots,
                                 [&](const auto& each) { return each.first > one.version; });
                   process.target.reset();
                 },
                 [&](const ForgetCopies&) { process.data.snapshots.clear(); },
                 [&](const StopStep&) { stop(process); },
                 [&](const FindVersions&) { find_versions(process); },
                 [](const StandStill&) {},
                 [&](const End& one) {
                   if (one.reason == EndReason::kUndecided &&
                       now_ms_ > kRepairMs +
                                     std::max(scenario_.quiet_at_ms, process.pause_felt_until_ms)) {
                     throw Violation("a member ends undecided on a network without faults");
                   }
                   if (one.reason == EndReason::kStateGone && !is_state_gone()) {
                     throw Violation("a member gives up a state that is there");
                   }
                   process.end = one.reason;
                   outcome_.num_undecided += one.reason == EndReason::kUndecided ? 1 : 0;
                   end_process(process);
                 },
             },
             action);
}

}  // namespace dynatrain::membership::simulation

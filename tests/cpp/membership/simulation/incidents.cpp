#include "membership/simulation/simulation.hpp"
#include <algorithm>

namespace dynatrain::membership::simulation {

Process* Simulation::pick(std::uint64_t who) {
  std::vector<Process*> alive;
  for (const auto& process : processes_) {
    if (process->is_alive) {
      alive.push_back(process.get());
    }
  }
  return alive.empty() ? nullptr : alive[who % alive.size()];
}

void Simulation::begin_incident(const Incident& incident) {
  switch (incident.kind) {
    case IncidentKind::kJoin:
      start_process();
      return;
    case IncidentKind::kPartition:
      for (const auto& process : processes_) {
        const std::uint64_t bits = incident.who * 64 + static_cast<std::uint64_t>(incident.amount);
        process->is_beyond = ((bits >> (process->id.value % 10)) & 1U) != 0;
      }
      queue_.put(now_ms_ + incident.duration_ms, What::kHeal);
      return;
    case IncidentKind::kCrashCoordinator:
      crash_behind_ = incident.amount;
      down_for_ms_ = incident.duration_ms;
      return;
    case IncidentKind::kResize: {
      const auto num_layouts = static_cast<std::int64_t>(scenario_.layouts.size());
      const std::int64_t place = incident.amount % (num_layouts + 1);
      feed_coordinator(Resize{
          place == num_layouts ? "" : scenario_.layouts[static_cast<std::size_t>(place)].layout});
      return;
    }
    default:
      if (Process* const process = pick(incident.who)) {
        begin_for_process(incident, *process);
      }
  }
}

void Simulation::begin_for_process(const Incident& incident, Process& process) {
  switch (incident.kind) {
    case IncidentKind::kCrash:
      end_process(process);
      if (incident.amount % 3 != 0) {
        queue_.put(now_ms_ + incident.duration_ms, What::kStartProcess);
      }
      return;
    case IncidentKind::kPause:
      process.paused_until_ms = now_ms_ + incident.duration_ms;
      process.pause_felt_until_ms = std::max(process.pause_felt_until_ms, process.paused_until_ms);
      return;
    case IncidentKind::kCloseConnection:
      queue_.put(now_ms_, What::kConnectionClosed, process.id.value - 1);
      return;
    case IncidentKind::kDrain:
      feed_coordinator(Drain{process.id});
      return;
    case IncidentKind::kLeave:
      put_local(process, 0, LeaveWanted{incident.duration_ms});
      return;
    case IncidentKind::kStepFailure:
      process.fails_step = true;
      return;
    case IncidentKind::kPrepareFailure:
      process.fails_prepare = true;
      return;
    case IncidentKind::kSwitchFailure:
      process.fails_transfer = true;
      return;
    case IncidentKind::kSlowSwitch:
      process.transfer_delay_ms = incident.duration_ms;
      return;
    case IncidentKind::kSlowPrepare:
      process.prepare_delay_ms = incident.duration_ms;
      return;
    default:
      return;
  }
}

void Simulation::heal() {
  for (const auto& process : processes_) {
    process->is_beyond = false;
  }
}

void Simulation::begin_quiet() {
  crash_behind_.reset();
  if (!coordinator_) {
    start_coordinator();
  }
  for (const auto& process : processes_) {
    process->paused_until_ms = std::min(process->paused_until_ms, now_ms_);
  }
  // Enough members for the smallest layout.
  const int least = std::ranges::min(scenario_.layouts, {}, &LayoutChoice::world_size).world_size;
  for (int i = 0; i < least; ++i) {
    queue_.put(now_ms_ + random_.between(1, 200), What::kStartProcess);
  }
}

}  // namespace dynatrain::membership::simulation

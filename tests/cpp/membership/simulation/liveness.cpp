#include "membership/simulation/simulation.hpp"
#include <algorithm>
#include <sstream>

/// When the faults have stopped, all that live train in the world that is wanted, or the state of
/// the job is gone for good.
namespace dynatrain::membership::simulation {
namespace {

constexpr std::int64_t kStepsThatShowLife = 3;

}  // namespace

const LayoutChoice* Simulation::wanted_layout(std::int64_t num_available) const {
  const LayoutChoice* first = nullptr;
  for (const LayoutChoice& choice : scenario_.layouts) {
    if (choice.world_size > num_available || choice.layout == scenario_.refused) {
      continue;
    }
    if (choice.layout == oracle_.wish()) {
      return &choice;
    }
    first = first == nullptr ? &choice : first;
  }
  return first;
}

bool Simulation::is_wanted(const std::string& layout, std::int64_t num_available) const {
  if (layout == scenario_.refused) {
    return false;
  }
  const auto refused = std::ranges::find(scenario_.layouts, oracle_.wish(), &LayoutChoice::layout);
  if (!scenario_.refused.empty() && oracle_.wish() == scenario_.refused &&
      refused->world_size <= num_available) {
    return true;  // whatever stood when the wish was refused stays
  }
  const LayoutChoice* const wanted = wanted_layout(num_available);
  if (wanted != nullptr && wanted->layout == layout) {
    return true;
  }
  if (wanted == nullptr || wanted->layout == oracle_.wish()) {
    return false;
  }
  // What policies want in the end, if the first member that is available has one.
  const LayoutChoice& last = scenario_.layouts.back();
  return scenario_.policy_percent > 0 && last.layout == layout && last.world_size <= num_available;
}

bool Simulation::is_resting(const Process& process) const {
  const bool is_member =
      std::ranges::find(oracle_.world().members, process.id) != oracle_.world().members.end();
  const Worker& machine = process.machine;
  if (is_member) {
    return machine.epoch() == oracle_.world().epoch && machine.activity() == Activity::kTraining;
  }
  return machine.epoch() == 0 && machine.activity() == Activity::kIdle;
}

bool Simulation::is_finished_well() {
  return std::ranges::all_of(processes_, [&](const auto& process) { return !process->is_alive; });
}

bool Simulation::is_state_gone() {
  std::vector<MemberId> holders = oracle_.world().members;
  for (const auto& process : processes_) {
    // Who has left by the last change takes its copies along.
    if (process->left_for == oracle_.world().epoch && process->left_for != 0) {
      holders.push_back(process->id);
    }
  }
  if (is_orphaned(oracle_.world().members) ? !checkpoints_.empty() : !on_disk().empty()) {
    return false;
  }
  for (const MemberId id : holders) {
    const Data& data = process_of(id).data;
    if (data.is_clean && is_covered(holders, data.version)) {
      return false;
    }
    for (const auto& [version, snapshot] : data.snapshots) {
      if (is_covered(holders, version)) {
        return false;
      }
    }
  }
  return true;
}

bool Simulation::is_stuck_rightly() {
  if (!oracle_.is_halted() || !is_state_gone()) {
    return false;
  }
  const Status status = coordinator_->status(now_ms_);
  return status.phase == Phase::kRecovering && !status.attempt && status.seconds_left == 0 &&
         !status.waits_for.empty();
}

bool Simulation::is_well() {
  if (!coordinator_) {
    return false;
  }
  if (oracle_.is_finished()) {
    outcome_.is_finished = true;
    return is_finished_well();
  }
  if (is_stuck_rightly()) {
    outcome_.is_stuck_without_state = true;
    return true;
  }
  std::int64_t num_available = 0;
  std::int64_t version = -1;
  for (const auto& process : processes_) {
    if (!process->is_alive) {
      continue;
    }
    if (!oracle_.has_joined(process->id) || oracle_.is_gone(process->id) || !is_resting(*process)) {
      well_since_.reset();
      return false;
    }
    num_available += oracle_.is_leaving(process->id) ? 0 : 1;
    if (process->machine.epoch() > 0) {
      version = version < 0 ? process->data.version : std::min(version, process->data.version);
    }
  }
  const World& world = oracle_.world();
  const bool is_alive = std::ranges::all_of(world.members, [&](MemberId id) {
    return process_of(id).is_alive && !oracle_.is_leaving(id);
  });
  if (!is_wanted(world.layout, num_available) || !is_alive) {
    well_since_.reset();
    return false;
  }
  if (!well_since_ || well_since_->first != world.epoch) {
    well_since_ = {world.epoch, version};
  }
  return version >= well_since_->second + kStepsThatShowLife;
}

std::string Simulation::describe_end() {
  std::ostringstream text;
  const World& world = oracle_.world();
  text << "  world " << world.epoch << ' ' << world.layout
       << (oracle_.is_halted() ? ", halted" : "");
  if (coordinator_) {
    const Status status = coordinator_->status(now_ms_);
    text << ", coordinator " << phase_name(status.phase) << ": " << status.waits_for << " ("
         << status.seconds_left << " s), last failure: " << status.last_failure;
  }
  text << '\n';
  for (const auto& process : processes_) {
    if (process->is_alive) {
      text << "  member " << process->id.value << ": epoch " << process->machine.epoch()
           << ", version " << process->data.version << ", activity "
           << static_cast<int>(process->machine.activity()) << ", "
           << process->machine.holds_because()
           << (oracle_.is_leaving(process->id) ? ", leaves" : "") << '\n';
    }
  }
  return text.str();
}

}  // namespace dynatrain::membership::simulation

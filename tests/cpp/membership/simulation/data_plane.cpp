#include "membership/simulation/simulation.hpp"
#include <algorithm>
#include <utility>

/// Steps and transfers: collectives that all members have to meet in, after which each ends alone.
namespace dynatrain::membership::simulation {
namespace {

constexpr std::int64_t kCollectiveTimeoutMs = 1600;
constexpr std::int64_t kRetryMs = 40;

std::uint64_t next_digest(std::uint64_t digest, std::int64_t epoch, std::int64_t version) {
  Hasher hasher;
  hasher.add(digest);
  hasher.add(epoch);
  hasher.add(version);
  return hasher.digest();
}

}  // namespace

bool Simulation::can_meet(const Process& process) const {
  return process.is_alive && now_ms_ >= process.paused_until_ms;
}

bool Simulation::are_together(const std::vector<Process*>& all) const {
  return std::ranges::all_of(all, [&](const Process* process) {
    return can_meet(*process) && process->is_beyond == all.front()->is_beyond;
  });
}

std::vector<Process*> Simulation::participants(std::int64_t attempt) {
  std::vector<Process*> all;
  for (const MemberId id : oracle_.participants(attempt)) {
    all.push_back(&process_of(id));
  }
  return all;
}

void Simulation::begin_step(Process& process, const Train& action) {
  oracle_.on_train(process.id, action, process.data.version);
  if (process.drains != 0) {
    throw Violation("member " + std::to_string(process.id.value) +
                    " trains while a transfer still reads its state");
  }
  if (scenario_.finish_at > 0 && action.version >= scenario_.finish_at) {
    put_local(process, 0, ScriptFinished{});
    return;
  }
  process.step = Meeting{action.epoch, action.version, next_token_++};
  const std::size_t index = process.id.value - 1;
  queue_.put(now_ms_ + kCollectiveTimeoutMs, What::kStepTimesOut, index, process.step->token);
  if (std::exchange(process.fails_step, false) && !is_quiet()) {
    process.step.reset();
    put_local(process, random_.between(1, 30), StepBroke{{MemberId{1}}});
    return;
  }
  retry_step(process);
}

void Simulation::retry_step(const Process& process) {
  const std::int64_t epoch = process.step->number;
  const std::int64_t version = process.step->version;
  std::vector<Process*> arrived;
  for (const MemberId id : oracle_.world().members) {
    Process& member = process_of(id);
    if (member.step && member.step->number == epoch && member.step->version == version) {
      arrived.push_back(&member);
    }
  }
  if (oracle_.world().epoch != epoch || arrived.size() != oracle_.world().members.size()) {
    // A world that is not the newest on disk cannot be whole: see on_step_passes.
    return;
  }
  if (!are_together(arrived)) {
    queue_.put(now_ms_ + kRetryMs, What::kStepRetry, process.id.value - 1, process.step->token);
    return;
  }
  oracle_.on_step_passes(epoch, version);
  for (Process* member : arrived) {
    if (member->data.digest != arrived.front()->data.digest) {
      throw Violation("members of one step hold states of different histories");
    }
    member->step->has_met = true;
    queue_.put(now_ms_ + random_.between(30, 110),
               What::kStepEnds,
               member->id.value - 1,
               member->step->token);
  }
}

void Simulation::end_step(Process& process) {
  const Meeting step = *std::exchange(process.step, std::nullopt);
  process.data.version = step.version + 1;
  process.data.digest = next_digest(process.data.digest, step.number, step.version);
  if (process.data.version % 3 == 0) {
    process.data.snapshots[process.data.version] = {process.data.digest, step.number};
    if (process.data.snapshots.size() > 2) {
      process.data.snapshots.erase(process.data.snapshots.begin());
    }
    tell_of_copies(process, step.number);
  }
  if (scenario_.has_checkpoints && process.data.version % 5 == 0) {
    save(process, step.number);
  }
  if (scenario_.finish_at > 0 && process.data.version >= scenario_.finish_at) {
    feed(process, ScriptFinished{});
  } else {
    feed(process, AtBoundary{process.data.version});
  }
}

bool Simulation::is_refused(const Description& description) const {
  return !scenario_.refused.empty() && description.target.layout == scenario_.refused;
}

void Simulation::prepare(Process& process, const RunPrepare& action) {
  const Description& description = oracle_.published().at(action.attempt);
  // A process that was paused may prepare for what is long over; the others have gone on since.
  const bool fails = std::exchange(process.fails_prepare, false) && !is_quiet();
  const std::int64_t delay_ms =
      random_.between(5, 150) + std::exchange(process.prepare_delay_ms, 0);
  if (fails) {
    put_local(process, delay_ms, PrepareBroke{action.attempt, "no memory", false});
  } else if (description.kind == ChangeKind::kRecovery && is_refused(description)) {
    put_local(process,
              delay_ms,
              PrepareBroke{action.attempt, "it cuts no head", random_.percent(50), true});
  } else if (description.kind == ChangeKind::kRecovery && oracle_.is_open(action.attempt) &&
             !digest_of(description)) {
    put_local(process, delay_ms, PrepareBroke{action.attempt, "a shard has no owner", true});
  } else {
    put_local(process, delay_ms, PrepareDone{action.attempt});
  }
}

void Simulation::begin_transfer(Process& process, const RunSwitch& action) {
  process.transfer = Meeting{action.attempt, action.version, next_token_++};
  const std::size_t index = process.id.value - 1;
  queue_.put(now_ms_ + kCollectiveTimeoutMs, What::kSwitchTimesOut, index, process.transfer->token);
  if (std::exchange(process.fails_transfer, false) && !is_quiet()) {
    process.transfer.reset();
    put_local(process, random_.between(1, 40), SwitchBroke{action.attempt, "a link broke"});
    return;
  }
  if (is_refused(oracle_.published().at(action.attempt))) {
    process.transfer.reset();
    const SwitchBroke refusal{action.attempt, "it cuts no head", true};
    put_local(process, random_.between(1, 40), refusal);
    return;
  }
  retry_transfer(process);
}

void Simulation::retry_transfer(const Process& process) {
  const std::int64_t attempt = process.transfer->number;
  const std::vector<Process*> all = participants(attempt);
  const bool is_whole = std::ranges::all_of(
      all, [&](const Process* one) { return one->transfer && one->transfer->number == attempt; });
  if (!is_whole) {
    return;
  }
  if (!are_together(all)) {
    queue_.put(
        now_ms_ + kRetryMs, What::kSwitchRetry, process.id.value - 1, process.transfer->token);
    return;
  }
  const Description& description = oracle_.published().at(attempt);
  const std::int64_t version = all.front()->transfer->version;
  Data moved{.version = version, .is_clean = true};
  if (description.kind == ChangeKind::kRecovery) {
    const std::optional<std::uint64_t> digest = digest_of(description);
    if (!digest) {
      return;  // a holder has died: the transfer ends by its deadline
    }
    moved.digest = *digest;
  }
  for (Process* one : all) {
    const bool is_source =
        std::ranges::find(description.source.members, one->id) != description.source.members.end();
    if (description.kind == ChangeKind::kPlanned && is_source) {
      if (one->data.version != version || !one->data.is_clean) {
        throw Violation("a switch at step " + std::to_string(version) + " meets a member at " +
                        std::to_string(one->data.version));
      }
      moved.digest = one->data.digest;
    }
  }
  for (Process* one : all) {
    one->target = moved;
    one->transfer->has_met = true;
    const std::int64_t delay_ms = random_.between(2, 40) + std::exchange(one->transfer_delay_ms, 0);
    queue_.put(now_ms_ + delay_ms, What::kSwitchEnds, one->id.value - 1, one->transfer->token);
  }
}

void Simulation::end_transfer(Process& process) {
  const std::int64_t attempt = std::exchange(process.transfer, std::nullopt)->number;
  feed(process, SwitchMoved{attempt});
}

void Simulation::discard(Process& process, const Discard& action) {
  oracle_.on_discard(process.id, action);
  if (process.transfer && process.transfer->number == action.attempt) {
    process.transfer.reset();
    process.drains = action.attempt;
    put_local(process, random_.between(1, 50), SwitchBroke{action.attempt, "given up"});
  }
}

void Simulation::install(Process& process, const Install& action) {
  oracle_.on_install(process.id, action);
  if (!process.target || process.target->version != action.version) {
    throw Violation("member " + std::to_string(process.id.value) +
                    " installs a target that no transfer has brought");
  }
  const Description& description = oracle_.published().at(action.attempt);
  const bool is_source =
      std::ranges::find(description.source.members, process.id) != description.source.members.end();
  if (description.kind == ChangeKind::kPlanned && is_source &&
      (process.data.version != action.version || process.data.digest != process.target->digest)) {
    throw Violation("member " + std::to_string(process.id.value) +
                    " has skipped or repeated a step");
  }
  if (action.epoch == 1 && action.version != scenario_.begin_at) {
    throw Violation("the first world does not go on from the checkpoint that was there");
  }
  std::erase_if(checkpoints_, [&](const auto& each) {
    return each.first > action.version && each.second.epoch != action.epoch;
  });
  // What does not lead to the new state is forgotten: its versions come again, as other states.
  std::map<std::int64_t, Snapshot> snapshots = std::move(process.data.snapshots);
  std::erase_if(snapshots, [&](const auto& each) { return each.first > action.version; });
  process.data = *std::exchange(process.target, std::nullopt);
  process.data.snapshots = std::move(snapshots);
  process.step.reset();
}

void Simulation::stop(Process& process) {
  if (process.step && process.step->has_met) {
    const std::int64_t luck = random_.between(0, 2);
    if (luck == 0) {
      process.data.version = process.step->version + 1;
      process.data.digest =
          next_digest(process.data.digest, process.step->number, process.step->version);
    }
    process.data.is_clean = luck != 1;  // cut short in the middle of the optimizer's step
  }
  process.step.reset();
  process.transfer.reset();
  process.drains = 0;
  Stopped stopped{process.data.version, process.data.is_clean, {}};
  for (const auto& [version, snapshot] : process.data.snapshots) {
    stopped.snapshot_versions.push_back(version);
  }
  const std::vector<std::int64_t> usable = on_disk();
  stopped.snapshot_versions.insert(stopped.snapshot_versions.end(), usable.begin(), usable.end());
  put_local(process, random_.between(1, 60), std::move(stopped));
}

}  // namespace dynatrain::membership::simulation

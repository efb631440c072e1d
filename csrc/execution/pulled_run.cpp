#include "execution/pulled_run.hpp"

#include "dynatrain/base/log.hpp"

#include "execution/phase_range.hpp"
#include <algorithm>
#include <array>
#include <exception>
#include <utility>

namespace dynatrain {
namespace {

/// The peers of a rank, each with the hash of its list.
struct Peers {
  std::vector<std::pair<int, Note>> owners;
  std::vector<std::pair<int, Note>> readers;
};

Peers peers_of(const Plan& plan) {
  Peers peers;
  for (const PairList& list : plan.receives) {
    peers.owners.emplace_back(list.peer, Note{list.hash, 0});
  }
  for (const PairList& list : plan.sends) {
    peers.readers.emplace_back(list.peer, Note{list.hash, 0});
  }
  return peers;
}

std::vector<int> ranks_of(const std::vector<std::pair<int, Note>>& peers) {
  std::vector<int> ranks;
  ranks.reserve(peers.size());
  for (const auto& [rank, note] : peers) {
    ranks.push_back(rank);
  }
  return ranks;
}

}  // namespace

PulledRun::PulledRun(const RunInputs& run,
                     const Ports& ports,
                     RunMonitor& monitor,
                     std::optional<SourceMap> sources)
    : run_(run),
      ports_(ports),
      monitor_(monitor),
      sources_(std::move(sources)),
      program_(make_pull_program(run.schedule, run.source, run.target)),
      addresses_(patch_addresses(
          run, {.num_tensors = static_cast<std::int64_t>(run.source.num_tensors())})),
      running_(program_.stages.size()) {
  for (std::size_t k = 0; k < running_.size(); ++k) {
    adopted_bytes_ += skip_adopted(program_.stages[k].local, addresses_);
    program_.stages[k].unpack.times = &running_[k].pull_times;
    program_.stages[k].local.times = &running_[k].local_times;
  }
}

void PulledRun::run() {
  map_peers();
  // What the peers are told to be final must be, and the target's memory is filled by now as well.
  wait_all(run_.options.after, run_.deadline);
  meet_owners();
  for (std::size_t k = 0; k < running_.size(); ++k) {
    if (k >= 2) {
      retire(k - 2);
    }
    monitor_.check();
    {
      const PhaseRange range(run_.options.ranges, "dynatrain::pull");
      running_[k].pulled = ports_.copier.submit(program_.stages[k].unpack, addresses_, {});
    }
    const PhaseRange range(run_.options.ranges, "dynatrain::local");
    running_[k].copied = ports_.copier.submit(program_.stages[k].local, addresses_, {});
  }
  for (std::size_t k = running_.size() - std::min<std::size_t>(2, running_.size());
       k < running_.size();
       ++k) {
    retire(k);
  }
  acknowledge();
}

void PulledRun::map_peers() {
  if (sources_.has_value()) {
    check_made_for(*sources_, run_.plan, run_.source_memory);
  } else {
    sources_ = make_source_map(
        *ports_.transport.one_sided(), run_.plan, run_.source_memory, run_.deadline);
  }
  for (const MappedBuffer& mapped : program_.mapped) {
    const std::byte* base = sources_->mapped.at({mapped.peer, mapped.tensor});
    // Only read: the table has one kind of address for sources and targets.
    addresses_.set(mapped.id, const_cast<std::byte*>(base), mapped.size_bytes);
  }
}

void PulledRun::meet_owners() {
  const Peers peers = peers_of(run_.plan);
  static_cast<void>(exchange_notes(ports_, peers.readers, ranks_of(peers.owners), run_.deadline));
}

void PulledRun::retire(std::size_t k) {
  try {
    const std::array tokens{running_[k].pulled, running_[k].copied};
    wait_all(tokens, run_.deadline);
  } catch (...) {
    monitor_.fail(static_cast<int>(k), std::current_exception());
    monitor_.check();
  }
  tell_landed(run_, program_.stages[k], k);
}

void PulledRun::acknowledge() {
  ports_.transport.one_sided()->release();
  const Peers peers = peers_of(run_.plan);
  static_cast<void>(exchange_notes(ports_, peers.owners, ranks_of(peers.readers), run_.deadline));
}

bool PulledRun::drain_all() const noexcept {
  const Deadline deadline = deadline_in(kDrainTime);
  const bool have_ended = std::ranges::all_of(running_, [deadline](const Running& running) {
    return drain(std::array{running.pulled, running.copied}, deadline);
  });
  if (!have_ended) {
    return false;
  }
  try {
    ports_.transport.one_sided()->release();
    ports_.transport.one_sided()->withdraw();
  } catch (const std::exception& error) {
    log(LogLevel::kWarning, "execution", error.what());
  }
  return true;
}

void PulledRun::report(RunResult& result) const {
  result.adopted_bytes = adopted_bytes_;
  for (std::size_t k = 0; k < running_.size(); ++k) {
    const auto add = [&](TraceSpan::Phase phase, const CopyTimes& times, std::int64_t size_bytes) {
      result.spans.push_back({.phase = phase,
                              .stage = static_cast<int>(k),
                              .begin_seconds = monitor_.seconds_at(times.begin),
                              .end_seconds = monitor_.seconds_at(times.end),
                              .size_bytes = size_bytes});
    };
    if (!program_.stages[k].unpack.copies.empty()) {
      add(TraceSpan::Phase::kWire, running_[k].pull_times, program_.stages[k].received_bytes);
    }
    if (!program_.stages[k].local.copies.empty()) {
      add(TraceSpan::Phase::kLocal, running_[k].local_times, program_.stages[k].local_bytes);
    }
  }
}

}  // namespace dynatrain

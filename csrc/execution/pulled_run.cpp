#include "execution/pulled_run.hpp"

#include "dynatrain/base/log.hpp"

#include <algorithm>
#include <array>
#include <exception>
#include <set>
#include <utility>

namespace dynatrain {

PulledRun::PulledRun(const RunInputs& run,
                     const Ports& ports,
                     RunMonitor& monitor,
                     std::int64_t first_exposed)
    : run_(run),
      ports_(ports),
      monitor_(monitor),
      first_exposed_(first_exposed),
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
  expose();
  map_peers();
  for (std::size_t k = 0; k < running_.size(); ++k) {
    if (k >= 2) {
      retire(k - 2);
    }
    monitor_.check();
    running_[k].pulled = ports_.copier.submit(program_.stages[k].unpack, addresses_, {});
    running_[k].copied = ports_.copier.submit(program_.stages[k].local, addresses_, {});
  }
  for (std::size_t k = running_.size() - std::min<std::size_t>(2, running_.size());
       k < running_.size();
       ++k) {
    retire(k);
  }
  acknowledge();
}

void PulledRun::expose() const {
  std::set<TensorId> exposed;
  for (const PairList& list : run_.plan.sends) {
    for (const Move& move : list.moves) {
      exposed.insert(move.tensor);
    }
  }
  for (const TensorId tensor : exposed) {
    ports_.transport.one_sided()->expose(BufferId(first_exposed_ + tensor.value),
                                         addresses_.base(BufferIds::source(tensor)),
                                         addresses_.size_bytes(BufferIds::source(tensor)));
  }
}

void PulledRun::map_peers() {
  for (const MappedBuffer& mapped : program_.mapped) {
    const std::byte* base = ports_.transport.one_sided()->map(
        mapped.peer, BufferId(first_exposed_ + mapped.tensor.value), run_.deadline);
    // Only read: the table has one kind of address for sources and targets.
    addresses_.set(mapped.id, const_cast<std::byte*>(base), mapped.size_bytes);
  }
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
  std::vector<std::pair<int, Note>> owners;
  owners.reserve(run_.plan.receives.size());
  for (const PairList& list : run_.plan.receives) {
    owners.emplace_back(list.peer, Note{list.hash, 0});
  }
  std::vector<int> readers;
  readers.reserve(run_.plan.sends.size());
  for (const PairList& list : run_.plan.sends) {
    readers.push_back(list.peer);
  }
  static_cast<void>(exchange_notes(ports_, owners, readers, run_.deadline));
}

bool PulledRun::drain_all() const noexcept {
  try {
    ports_.transport.one_sided()->withdraw_all();
  } catch (const std::exception& error) {
    log(LogLevel::kWarning, "execution", error.what());
  }
  const Deadline deadline = deadline_in(kDrainTime);
  return std::all_of(running_.begin(), running_.end(), [deadline](const Running& running) {
    return drain(std::array{running.pulled, running.copied}, deadline);
  });
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

#include "execution/pulled_run.hpp"

#include "dynatrain/base/log.hpp"

#include "execution/phase_range.hpp"
#include <algorithm>
#include <array>
#include <cstdint>
#include <exception>
#include <map>
#include <utility>

namespace dynatrain {
namespace {

/// A word for the peer of each list.
std::vector<Note> notes_of(const std::vector<PairList>& lists) {
  std::vector<Note> notes;
  notes.reserve(lists.size());
  for (const PairList& list : lists) {
    notes.push_back({.peer = list.peer, .words = {list.hash}});
  }
  return notes;
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
      program_(make_pull_program(run.schedule, run.source, run.target, compares_sums(run))),
      addresses_(patch_addresses(
          run, {.num_tensors = static_cast<std::int64_t>(run.source.num_tensors())})),
      running_(program_.stages.size()) {
  for (std::size_t k = 0; k < running_.size(); ++k) {
    adopted_bytes_ += skip_adopted(program_.stages[k].local, addresses_);
    program_.stages[k].unpack.times = &running_[k].pull_times;
    program_.stages[k].local.times = &running_[k].local_times;
    running_[k].sums.resize(program_.stages[k].checks.size());
    program_.stages[k].unpack.sums = running_[k].sums.data();
  }
  exposed_sums_.resize(program_.exposed_reader.size());
  program_.exposed.sums = exposed_sums_.data();
}

void PulledRun::run() {
  map_peers();
  // What the peers are told to be final must be, and the target's memory is filled by now as well.
  wait_all(run_.options.after, run_.deadline);
  meet_owners();
  summed_ = ports_.copier.submit(program_.exposed, addresses_, {});
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
  std::vector<Note> owners = notes_of(run_.plan.receives);
  exchange_notes(ports_, notes_of(run_.plan.sends), owners, run_.deadline);
}

void PulledRun::retire(std::size_t k) {
  try {
    const std::array tokens{running_[k].pulled, running_[k].copied};
    if (k == 0) {
      exchange_sums();  // while the first stages are under way
    }
    wait_all(tokens, run_.deadline);
    verify(k);
  } catch (...) {
    monitor_.fail(static_cast<int>(k), std::current_exception());
    monitor_.check();
  }
  tell_landed(run_, program_.stages[k], k);
}

void PulledRun::exchange_sums() {
  if (!compares_sums(run_)) {
    return;
  }
  wait_all(std::array{summed_}, run_.deadline);
  std::map<int, Note> sent;
  for (std::size_t i = 0; i < exposed_sums_.size(); ++i) {
    const int reader = program_.exposed_reader[i];
    sent.try_emplace(reader, Note{.peer = reader, .words = {}});
    sent.at(reader).words.push_back(exposed_sums_[i]);
  }
  std::map<int, std::size_t> num_received;
  for (const StageProgram& stage : program_.stages) {
    for (const PartCheck& check : stage.checks) {
      ++num_received[check.peer];
    }
  }
  std::vector<Note> own;
  own.reserve(sent.size());
  for (auto& [peer, note] : sent) {
    own.push_back(std::move(note));
  }
  for (const auto& [peer, num_sums] : num_received) {
    sent_sums_.push_back({.peer = peer, .words = std::vector<std::uint64_t>(num_sums)});
  }
  exchange_notes(ports_, own, sent_sums_, run_.deadline);
}

void PulledRun::verify(std::size_t k) {
  const std::vector<PartCheck>& checks = program_.stages[k].checks;
  if (checks.empty()) {
    return;
  }
  const PhaseRange range(run_.options.ranges, "dynatrain::verify");
  running_[k].verify_begin_seconds = monitor_.seconds_at(RunMonitor::Clock::now());
  for (std::size_t i = 0; i < checks.size(); ++i) {
    const auto sent = std::ranges::find(sent_sums_, checks[i].peer, &Note::peer);
    compare_sums(run_,
                 checks[i],
                 static_cast<int>(k),
                 sent->words[static_cast<std::size_t>(checks[i].sent_index)],
                 running_[k].sums[i]);
  }
  running_[k].verify_end_seconds = monitor_.seconds_at(RunMonitor::Clock::now());
}

void PulledRun::acknowledge() {
  ports_.transport.one_sided()->release();
  std::vector<Note> readers = notes_of(run_.plan.sends);
  exchange_notes(ports_, notes_of(run_.plan.receives), readers, run_.deadline);
}

bool PulledRun::drain_all() const noexcept {
  const Deadline deadline = deadline_in(kDrainTime);
  bool have_ended = drain(std::array{summed_}, deadline);
  for (const Running& running : running_) {
    have_ended = drain(std::array{running.pulled, running.copied}, deadline) && have_ended;
  }
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
    if (!program_.stages[k].checks.empty()) {
      result.spans.push_back({.phase = TraceSpan::Phase::kVerify,
                              .stage = static_cast<int>(k),
                              .begin_seconds = running_[k].verify_begin_seconds,
                              .end_seconds = running_[k].verify_end_seconds,
                              .size_bytes = program_.stages[k].received_bytes});
    }
  }
}

}  // namespace dynatrain

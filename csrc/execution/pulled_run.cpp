#include "execution/pulled_run.hpp"

#include "dynatrain/base/error.hpp"

#include "execution/draining.hpp"
#include "execution/patching.hpp"
#include "execution/phase_range.hpp"
#include "execution/verifying.hpp"
#include <algorithm>
#include <array>
#include <cstdint>
#include <exception>
#include <map>
#include <string>
#include <utility>

namespace dynatrain {
namespace {

/// Stages under way at a time. They share no staging, so that none waits for another; but a run
/// that is cancelled, or whose peer gave up, ends behind those that were submitted.
constexpr std::size_t kStagesUnderWay = 8;

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

PulledRun::PulledRun(RunInputs inputs,
                     const Ports& ports,
                     std::shared_ptr<OpenSources> open,
                     const SourceMap& sources)
    : inputs_(std::move(inputs)),
      ports_(ports),
      open_(std::move(open)),
      program_(make_pull_program(
          inputs_.schedule, inputs_.source, inputs_.target, compares_sums(inputs_))),
      addresses_(patch_addresses(
          inputs_, {.num_tensors = static_cast<std::int64_t>(inputs_.source.num_tensors())})),
      running_(program_.stages.size()) {
  set_addresses_of(sources);
  std::vector<CopyBatch*> batches;
  for (std::size_t k = 0; k < running_.size(); ++k) {
    StageProgram& stage = program_.stages[k];
    adopted_bytes_ += skip_adopted(stage.local, addresses_);
    stage.unpack.times = &running_[k].pull_times;
    stage.local.times = &running_[k].local_times;
    running_[k].sums.resize(stage.checks.size());
    stage.unpack.sums = running_[k].sums.data();
    batches.insert(batches.end(), {&stage.unpack, &stage.local});
  }
  exposed_sums_.resize(program_.exposed_reader.size());
  program_.exposed.sums = exposed_sums_.data();
  batches.push_back(&program_.exposed);
  table_bytes_ = prepare_batches(batches, ports_.copier, addresses_);
}

void PulledRun::run(const RunCall& call) {
  check_open();
  // What the peers are told to be final must be, and the target's memory is filled by now as well.
  wait_all(call.options.after, call.deadline);
  timed(call, TraceSpan::Phase::kAgree, [&] { meet_owners(call); });
  summed_ = ports_.copier.submit(program_.exposed, addresses_, {});
  for (std::size_t k = 0; k < running_.size(); ++k) {
    if (k >= kStagesUnderWay) {
      retire(call, k - kStagesUnderWay);
    }
    call.monitor.check();
    call.monitor.enter(static_cast<int>(k));
    {
      const PhaseRange range(call.options.ranges, "dynatrain::pull");
      running_[k].pulled = ports_.copier.submit(program_.stages[k].unpack, addresses_, {});
    }
    const PhaseRange range(call.options.ranges, "dynatrain::local");
    running_[k].copied = ports_.copier.submit(program_.stages[k].local, addresses_, {});
  }
  for (std::size_t k = running_.size() - std::min(kStagesUnderWay, running_.size());
       k < running_.size();
       ++k) {
    retire(call, k);
  }
  call.monitor.enter(RunMonitor::kNoStage);
  acknowledge(call);
}

void PulledRun::check_open() const {
  if (!open_->is_open()) {
    throw InternalError("execution: rank " + std::to_string(inputs_.plan.rank) +
                        " was to run over sources that a later run has mapped anew\n  nothing was "
                        "moved; the source state is intact\n  please report this as a bug of "
                        "dynatrain");
  }
}

template <class Work>
void PulledRun::timed(const RunCall& call, TraceSpan::Phase phase, Work work) {
  const double begin = call.monitor.seconds_at(RunMonitor::Clock::now());
  work();
  const double end = call.monitor.seconds_at(RunMonitor::Clock::now());
  host_spans_.push_back({.phase = phase, .begin_seconds = begin, .end_seconds = end});
}

void PulledRun::set_addresses_of(const SourceMap& sources) {
  check_made_for(sources, inputs_.plan, inputs_.source_memory);
  for (const MappedBuffer& mapped : program_.mapped) {
    addresses_.set_source(
        mapped.id, sources.mapped.at({mapped.peer, mapped.tensor}), mapped.size_bytes);
  }
}

void PulledRun::meet_owners(const RunCall& call) {
  std::vector<Note> owners = notes_of(inputs_.plan.receives);
  exchange_notes(ports_, notes_of(inputs_.plan.sends), owners, call.deadline);
}

void PulledRun::retire(const RunCall& call, std::size_t k) {
  try {
    const std::array tokens{running_[k].pulled, running_[k].copied};
    if (k == 0) {
      // While the first stages are under way.
      timed(call, TraceSpan::Phase::kSums, [&] { exchange_sums(call); });
    }
    wait_all(tokens, call.deadline);
    verify(call, k);
  } catch (...) {
    call.monitor.fail(static_cast<int>(k), std::current_exception());
    call.monitor.check();
  }
  tell_landed(inputs_, call.control, program_.stages[k], k);
}

void PulledRun::exchange_sums(const RunCall& call) {
  if (!compares_sums(inputs_)) {
    return;
  }
  wait_all(std::array{summed_}, call.deadline);
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
  exchange_notes(ports_, own, sent_sums_, call.deadline);
}

void PulledRun::verify(const RunCall& call, std::size_t k) {
  const std::vector<PartCheck>& checks = program_.stages[k].checks;
  if (checks.empty()) {
    return;
  }
  const PhaseRange range(call.options.ranges, "dynatrain::verify");
  running_[k].verify_begin_seconds = call.monitor.seconds_at(RunMonitor::Clock::now());
  for (std::size_t i = 0; i < checks.size(); ++i) {
    const auto sent = std::ranges::lower_bound(sent_sums_, checks[i].peer, {}, &Note::peer);
    compare_sums(inputs_,
                 checks[i],
                 static_cast<int>(k),
                 sent->words[static_cast<std::size_t>(checks[i].sent_index)],
                 running_[k].sums[i]);
  }
  running_[k].verify_end_seconds = call.monitor.seconds_at(RunMonitor::Clock::now());
}

void PulledRun::acknowledge(const RunCall& call) {
  timed(call, TraceSpan::Phase::kRelease, [&] { ports_.transport.one_sided()->release(); });
  timed(call, TraceSpan::Phase::kAcknowledge, [&] {
    std::vector<Note> readers = notes_of(inputs_.plan.sends);
    exchange_notes(ports_, notes_of(inputs_.plan.receives), readers, call.deadline);
  });
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
  open_->close();
  return true;
}

void PulledRun::report(const RunMonitor& monitor, RunResult& result) const {
  result.adopted_bytes = adopted_bytes_;
  result.spans.insert(result.spans.end(), host_spans_.begin(), host_spans_.end());
  for (std::size_t k = 0; k < running_.size(); ++k) {
    const auto add = [&](TraceSpan::Phase phase, const CopyTimes& times, std::int64_t size_bytes) {
      result.spans.push_back(span_of(monitor, phase, k, times, size_bytes));
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

#include "execution/staged_run.hpp"

#include "dynatrain/base/error.hpp"

#include "execution/draining.hpp"
#include "execution/patching.hpp"
#include "execution/phase_range.hpp"
#include "execution/verifying.hpp"
#include <algorithm>
#include <array>
#include <string>
#include <utility>

namespace dynatrain {

StagedRun::StagedRun(RunInputs inputs, const Ports& ports, std::shared_ptr<const Staging> staging)
    : inputs_(std::move(inputs)),
      ports_(ports),
      staging_(std::move(staging)),
      program_(
          make_program(inputs_.schedule, inputs_.source, inputs_.target, compares_sums(inputs_))),
      running_(program_.size()) {
  const BufferIds ids{.num_tensors = static_cast<std::int64_t>(inputs_.source.num_tensors())};
  addresses_ = patch_addresses(inputs_, ids);
  for (std::size_t slot = 0; slot < num_in_flight(); ++slot) {
    addresses_.set(ids.slot(slot), staging_->slot(slot), staging_->slot_bytes());
  }
  addresses_.set(ids.sums(), staging_->sums(), staging_->sums_bytes());
  std::int64_t num_sums = 0;
  std::vector<CopyBatch*> batches;
  for (std::size_t k = 0; k < program_.size(); ++k) {
    adopted_bytes_ += skip_adopted(program_[k].local, addresses_);
    program_[k].pack.times = &running_[k].pack_times;
    program_[k].unpack.times = &running_[k].unpack_times;
    program_[k].local.times = &running_[k].local_times;
    num_sums += place_sums(k, num_sums);
    batches.insert(batches.end(), {&program_[k].pack, &program_[k].unpack, &program_[k].local});
  }
  if (inputs_.streaming) {
    streamed_.emplace(inputs_, ids);
  } else {
    table_bytes_ = prepare_batches(batches, ports_.copier, addresses_);
  }
}

std::int64_t StagedRun::place_sums(std::size_t k, std::int64_t first_sum) {
  StageProgram& program = program_[k];
  const BufferIds ids{.num_tensors = static_cast<std::int64_t>(inputs_.source.num_tensors())};
  std::byte* const slot = staging_->slot(k % kNumSlots);
  program.pack.sums = reinterpret_cast<std::uint64_t*>(slot);
  for (const ProgramMessage& region : program.packed_sums) {
    program.pack.zeroed.emplace_back(slot + region.offset_bytes,
                                     static_cast<std::size_t>(region.size_bytes));
  }
  const std::int64_t num_bytes = std::ssize(program.checks) * kSumBytes;
  std::int64_t offset_bytes = 2 * first_sum * kSumBytes;
  std::byte* const own = staging_->sums() + offset_bytes;
  std::byte* const host = staging_->compared() + offset_bytes;
  program.unpack.sums = reinterpret_cast<std::uint64_t*>(own);
  running_[k].own_sums = reinterpret_cast<const std::uint64_t*>(host);
  running_[k].sent_sums = reinterpret_cast<const std::uint64_t*>(host + num_bytes);
  if (num_bytes > 0) {
    program.unpack.zeroed.emplace_back(own, static_cast<std::size_t>(num_bytes));
    program.unpack.read_back.push_back({.src = own, .host = host, .size_bytes = 2 * num_bytes});
  }
  offset_bytes += num_bytes;
  for (const ProgramMessage& region : program.sent_sums) {
    program.unpack.copies.push_back({.src = region.buffer,
                                     .dst = ids.sums(),
                                     .src_offset_bytes = region.offset_bytes,
                                     .dst_offset_bytes = offset_bytes,
                                     .copy = {.extents = {region.size_bytes},
                                              .src_offset_elems = 0,
                                              .dst_offset_elems = 0,
                                              .src_strides = {1},
                                              .dst_strides = {1}}});
    offset_bytes += region.size_bytes;
  }
  return std::ssize(program.checks);
}

void StagedRun::run(const RunCall& call) {
  for (std::size_t k = 0; k < program_.size(); ++k) {
    if (k >= kNumSlots) {
      retire(call, k - kNumSlots);
    }
    call.monitor.check();
    call.monitor.enter(stage_index(k));
    if (streamed_) {
      streamed_->before_stage(call, k, addresses_);
    }
    begin_stage(call, k);
  }
  for (std::size_t k = program_.size() - num_in_flight(); k < program_.size(); ++k) {
    retire(call, k);
  }
  if (streamed_) {
    streamed_->end(call);
  }
}

void StagedRun::begin_stage(const RunCall& call, std::size_t k) {
  const StageProgram& program = program_[k];
  Running& running = running_[k];
  std::vector<Token> after = call.options.after;
  {
    const PhaseRange range(call.options.ranges, "dynatrain::pack");
    running.packed = ports_.copier.submit(program.pack, addresses_, after);
  }
  {
    const PhaseRange range(call.options.ranges, "dynatrain::local");
    running.copied = ports_.copier.submit(program.local, addresses_, after);
  }
  post(call, k);
  after.push_back(running.received);
  const PhaseRange range(call.options.ranges, "dynatrain::unpack");
  running.unpacked = ports_.copier.submit(program.unpack, addresses_, after);
}

void StagedRun::post(const RunCall& call, std::size_t k) {
  const PhaseRange range(call.options.ranges, "dynatrain::wire");
  const StageProgram& program = program_[k];
  Running& running = running_[k];
  std::vector<WireMessage> receives;
  receives.reserve(program.receives.size());
  for (const ProgramMessage& message : program.receives) {
    receives.push_back(to_wire(message, ports_.tags.next_receive(message.peer)));
  }
  std::vector<WireMessage> sends;
  sends.reserve(program.sends.size());
  for (const ProgramMessage& message : program.sends) {
    sends.push_back(to_wire(message, ports_.tags.next_send(message.peer)));
  }
  const std::array packed{running.packed};
  ExchangeTokens tokens =
      ports_.transport.exchange({.sends = sends, .receives = receives}, packed, call.deadline);
  running.received = std::move(tokens.received);
  running.sent = std::move(tokens.sent);
  call.monitor.watch(stage_index(k),
                     program.sent_bytes + program.received_bytes,
                     {running.received, running.sent});
}

WireMessage StagedRun::to_wire(const ProgramMessage& message, std::uint32_t tag) const {
  DYNATRAIN_CHECK(
      message.offset_bytes + message.size_bytes <= addresses_.size_bytes(message.buffer),
      "execution: a message would leave its buffer");
  return {.peer = message.peer,
          .tag = tag,
          .data = addresses_.base(message.buffer) + message.offset_bytes,
          .size_bytes = message.size_bytes};
}

void StagedRun::retire(const RunCall& call, std::size_t k) {
  const Running& running = running_[k];
  try {
    const std::array tokens{
        running.packed, running.received, running.sent, running.unpacked, running.copied};
    wait_all(tokens, call.deadline + kAfterAbort);
    verify(call, k);
  } catch (...) {
    call.monitor.fail(stage_index(k), std::current_exception());
    call.monitor.check();
  }
  tell_landed(inputs_, call.control, program_[k], k);
}

void StagedRun::verify(const RunCall& call, std::size_t k) {
  const StageProgram& program = program_[k];
  Running& running = running_[k];
  if (program.checks.empty()) {
    return;
  }
  const PhaseRange range(call.options.ranges, "dynatrain::verify");
  running.verify_begin_seconds = call.monitor.seconds_at(RunMonitor::Clock::now());
  for (std::size_t i = 0; i < program.checks.size(); ++i) {
    const PartCheck& check = program.checks[i];
    compare_sums(
        inputs_, check, stage_index(k), running.sent_sums[check.sent_index], running.own_sums[i]);
  }
  running.verify_end_seconds = call.monitor.seconds_at(RunMonitor::Clock::now());
}

bool StagedRun::drain_all() const noexcept {
  const Deadline deadline = deadline_in(kDrainTime);
  return std::all_of(running_.begin(), running_.end(), [deadline](const Running& running) {
    const std::array tokens{
        running.packed, running.copied, running.received, running.sent, running.unpacked};
    return drain(tokens, deadline);
  });
}

void StagedRun::report(const RunMonitor& monitor, RunResult& result) const {
  using Phase = TraceSpan::Phase;
  result.adopted_bytes = adopted_bytes_;
  result.staging_peak_bytes = inputs_.schedule.staging_peak_bytes;
  for (std::size_t k = 0; k < program_.size(); ++k) {
    const Running& running = running_[k];
    const auto add = [&](TraceSpan::Phase phase, const CopyTimes& times, std::int64_t size_bytes) {
      result.spans.push_back(span_of(monitor, phase, k, times, size_bytes));
    };
    if (!program_[k].pack.copies.empty()) {
      add(Phase::kPack, running.pack_times, program_[k].sent_bytes);
    }
    if (!program_[k].local.copies.empty()) {
      add(Phase::kLocal, running.local_times, program_[k].local_bytes);
    }
    if (!program_[k].unpack.copies.empty()) {
      add(Phase::kUnpack, running.unpack_times, program_[k].received_bytes);
    }
    if (!program_[k].checks.empty()) {
      result.spans.push_back({.phase = Phase::kVerify,
                              .stage = stage_index(k),
                              .begin_seconds = running.verify_begin_seconds,
                              .end_seconds = running.verify_end_seconds,
                              .size_bytes = program_[k].received_bytes});
    }
  }
}

}  // namespace dynatrain

#include "dynatrain/execution/executor.hpp"

#include "dynatrain/base/error.hpp"

#include "execution/pulled_run.hpp"
#include "execution/run_inputs.hpp"
#include "execution/run_monitor.hpp"
#include "execution/source_map.hpp"
#include "execution/staged_run.hpp"
#include "execution/staging_arena.hpp"
#include <algorithm>
#include <exception>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>

namespace dynatrain {
namespace {

constexpr const char* kStillRunning =
    "execution: operations of an aborted run have not ended after 30 seconds\n  they may still "
    "write into target memory, which must not be freed; staging memory was given up\n"
    "  end this process";

/// Runs to the end or to the first failure; when it returns or throws, nothing touches memory any
/// more, except after the error that says so.
template <class MakeRun>
RunResult run_to_end(MakeRun make_run, std::unique_ptr<StagingArena>& arena, RunMonitor& monitor) {
  decltype(make_run()) run;
  try {
    run = make_run();
    run->run();
  } catch (...) {
    monitor.fail(0, std::current_exception());
  }
  const bool has_ended = run == nullptr || run->drain_all();
  monitor.stop();
  if (!has_ended) {
    // Threads still use them: leaking is the only safe end.
    static_cast<void>(run.release());    // NOLINT(bugprone-unused-return-value)
    static_cast<void>(arena.release());  // NOLINT(bugprone-unused-return-value)
    throw TransportError(kStillRunning, -1, -1, false);
  }
  monitor.check();
  RunResult result;
  result.seconds = monitor.seconds_at(RunMonitor::Clock::now());
  result.spans = monitor.take_spans();
  run->report(result);
  std::stable_sort(result.spans.begin(), result.spans.end(), [](const auto& a, const auto& b) {
    return a.begin_seconds < b.begin_seconds;
  });
  return result;
}

/// Pack, unpack and local of two stages, and the notes.
constexpr int kBatchesUnderWay = 7;

/// Copies of a schedule's largest batch: most parts are one box, those that were cut are up to
/// three or more, but few.
std::int64_t largest_batch(const Schedule& schedule) {
  std::int64_t largest = 0;
  std::int64_t num_sent = 0;  // one-sided, all that peers read is summed in one batch
  for (const Stage& stage : schedule.stages) {
    num_sent += num_parts(stage.sends);
    largest = std::max({largest, num_sent, num_parts(stage.receives), std::ssize(stage.locals)});
  }
  return 2 * largest;
}

std::string hex(std::uint64_t value) {
  std::string text(16, '0');
  for (std::size_t i = 0; i < text.size(); ++i) {
    text[text.size() - 1 - i] = "0123456789abcdef"[(value >> (4 * i)) & 15U];
  }
  return text;
}

[[noreturn]] void throw_disagreement(int rank, int peer, std::uint64_t own, std::uint64_t theirs) {
  throw TransportError("execution: ranks " + std::to_string(rank) + " and " + std::to_string(peer) +
                           " have different lists of moves between them\n  hash on rank " +
                           std::to_string(rank) + ": " + hex(own) + ", on rank " +
                           std::to_string(peer) + ": " + hex(theirs) +
                           "\n  nothing was moved; the source state is intact\n  give all ranks "
                           "the same layouts, tensors and decision record",
                       peer,
                       -1,
                       false);
}

}  // namespace

struct Executor::Impl {
  Transport& transport;
  Copier& copier;
  TagCounter tags;
  NoteMemory notes{};
  std::unique_ptr<StagingArena> arena = std::make_unique<StagingArena>();
  std::optional<SourceMap> sources;  ///< mapped ahead, for the next run

  [[nodiscard]] Ports ports() {
    return {.transport = transport, .copier = copier, .tags = tags, .notes = notes};
  }
};

Executor::Executor(Transport& transport, Copier& copier, int first_tag)
    : impl_(std::make_unique<Impl>(
          transport, copier, TagCounter(transport.size(), static_cast<std::uint32_t>(first_tag)))) {
}

Executor::~Executor() = default;

void Executor::agree(const Plan& plan, const ExecuteOptions& options) {
  // By peer: hash of the sends to it, of the receives from it.
  std::map<int, std::array<std::uint64_t, 2>> hashes;
  for (const PairList& list : plan.sends) {
    hashes[list.peer][0] = list.hash;
  }
  for (const PairList& list : plan.receives) {
    hashes[list.peer][1] = list.hash;
  }
  std::vector<Note> own;
  own.reserve(hashes.size());
  for (const auto& [peer, both] : hashes) {
    own.push_back({.peer = peer, .words = {both[0], both[1]}});
  }
  std::vector<Note> theirs = own;
  exchange_notes(impl_->ports(), own, theirs, deadline_in(options.timeout));
  for (std::size_t i = 0; i < own.size(); ++i) {
    for (const std::size_t way : {0U, 1U}) {
      if (own[i].words[way] != theirs[i].words[1 - way]) {
        throw_disagreement(plan.rank, own[i].peer, own[i].words[way], theirs[i].words[1 - way]);
      }
    }
  }
}

void Executor::reserve(const Schedule& schedule) {
  const Place place = impl_->transport.message_place();
  impl_->arena->reserve(schedule, impl_->copier, place);
  impl_->notes.reserve(note_bytes(schedule, impl_->transport.size()), impl_->copier, place);
  impl_->copier.reserve(largest_batch(schedule), kBatchesUnderWay);
}

std::string Executor::map_sources(const Plan& plan,
                                  const TensorMemory& source_memory,
                                  const ExecuteOptions& options) {
  impl_->sources.reset();
  OneSided* const one_sided = impl_->transport.one_sided();
  if (one_sided == nullptr) {
    return "the transport has no one-sided part";
  }
  try {
    impl_->sources = make_source_map(*one_sided, plan, source_memory, deadline_in(options.timeout));
  } catch (const DeviceError& error) {
    return error.what();
  }
  return "";
}

// NOLINTNEXTLINE(readability-function-size): the contract's eight inputs, which become one value.
RunResult Executor::run(const Plan& plan,
                        const Schedule& schedule,
                        const ShardMap& source,
                        const ShardMap& target,
                        const TensorMemory& source_memory,
                        const TensorMemory& target_memory,
                        const ExecuteOptions& options,
                        RunControl& control) {
  const RunInputs inputs{.plan = plan,
                         .schedule = schedule,
                         .source = source,
                         .target = target,
                         .source_memory = source_memory,
                         .target_memory = target_memory,
                         .options = options,
                         .control = control,
                         .deadline = deadline_in(options.timeout)};
  std::optional<SourceMap> sources = std::exchange(impl_->sources, std::nullopt);
  RunMonitor monitor(impl_->transport, control, inputs.deadline);
  OneSided* const one_sided = impl_->transport.one_sided();
  if (!options.allow_one_sided || one_sided == nullptr) {
    if (one_sided != nullptr) {
      one_sided->release();  // what was mapped ahead; its owners may free it after this run
    }
    const auto make_run = [&] {
      return std::make_unique<StagedRun>(inputs, impl_->ports(), monitor, *impl_->arena);
    };
    return run_to_end(make_run, impl_->arena, monitor);
  }
  const auto make_run = [&] {
    return std::make_unique<PulledRun>(inputs, impl_->ports(), monitor, std::move(sources));
  };
  return run_to_end(make_run, impl_->arena, monitor);
}

}  // namespace dynatrain

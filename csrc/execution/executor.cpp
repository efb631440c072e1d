#include "dynatrain/execution/executor.hpp"

#include "dynatrain/base/error.hpp"

#include "execution/pulled_run.hpp"
#include "execution/run.hpp"
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
RunResult run_to_end(MakeRun make_run, const RunCall& call) {
  std::unique_ptr<Run> run;
  try {
    run = make_run();
    run->run(call);
  } catch (...) {
    call.monitor.fail(call.monitor.stage(), std::current_exception());
  }
  const bool has_ended = run == nullptr || run->drain_all();
  call.monitor.stop();
  if (!has_ended) {
    // Threads still use it and its staging: leaking is the only safe end.
    static_cast<void>(run.release());  // NOLINT(bugprone-unused-return-value)
    throw TransportError(kStillRunning, -1, -1, false);
  }
  call.monitor.check();
  RunResult result;
  result.seconds = call.monitor.seconds_at(RunMonitor::Clock::now());
  result.spans = call.monitor.take_spans();
  run->report(call.monitor, result);
  std::stable_sort(result.spans.begin(), result.spans.end(), [](const auto& a, const auto& b) {
    return a.begin_seconds < b.begin_seconds;
  });
  return result;
}

/// Notes are a copy each way; the batches of a run are prepared.
constexpr std::int64_t kCopiesOfNotes = 1;
constexpr int kBatchesOfNotes = 4;

[[noreturn]] void throw_not_in_place(int rank, const std::string& problem) {
  throw DeviceError("execution: rank " + std::to_string(rank) +
                    " cannot read in place all that it receives, or have all read that it sends" +
                    (problem.empty() ? "" : ": " + problem) +
                    "\n  expected sources of one machine that peers can map\n  nothing was moved; "
                    "the source state is intact\n  run the two plans of map_sources, or run over "
                    "messages (allow_one_sided = false on all ranks)");
}

}  // namespace

struct Executor::Impl {
  Transport& transport;
  Copier& copier;
  TagCounter tags;
  NoteMemory notes{};
  StagingArena arena{};
  std::optional<SourceMap> sources;     ///< mapped ahead, for the next run
  std::shared_ptr<OpenSources> opened;  ///< with them, or with what could not be mapped
  std::weak_ptr<OpenSources> newest;    ///< of all runs; there is one publication at a time
  /// Made ahead: a run whose source is freed meanwhile may be refused nothing.
  ParkedThread watcher{"watches a run"};

  [[nodiscard]] Ports ports() {
    return {.transport = transport, .copier = copier, .tags = tags, .notes = notes};
  }
  /// Closes what any earlier run has open: a transport has one publication at a time.
  std::shared_ptr<OpenSources> open(OneSided& one_sided);
  /// A one-sided run that maps by itself. Collective; where it fails the peers are told.
  std::unique_ptr<PulledRun> make_mapping_run(RunInputs inputs,
                                              OneSided& one_sided,
                                              Deadline deadline);
  std::unique_ptr<Run> make_run(RunInputs inputs, Deadline deadline);
};

std::shared_ptr<OpenSources> Executor::Impl::open(OneSided& one_sided) {
  sources.reset();
  opened.reset();
  if (const std::shared_ptr<OpenSources> former = newest.lock()) {
    former->close();
  }
  auto made = std::make_shared<OpenSources>(one_sided);
  newest = made;
  return made;
}

std::unique_ptr<PulledRun> Executor::Impl::make_mapping_run(RunInputs inputs,
                                                            OneSided& one_sided,
                                                            Deadline deadline) {
  const std::shared_ptr<OpenSources> open_sources = open(one_sided);
  try {
    DividedSources made = divide_sources(
        one_sided, ports(), {inputs.plan, inputs.source, inputs.source_memory}, deadline);
    if (!made.plans.by_messages.sends.empty() || !made.plans.by_messages.receives.empty()) {
      throw_not_in_place(inputs.plan.rank, made.plans.problem);
    }
    return std::make_unique<PulledRun>(std::move(inputs), ports(), open_sources, made.map);
  } catch (const std::exception& error) {
    transport.abort(error.what());  // the peers map, too: they must not wait for what is closed now
    throw;
  }
}

std::unique_ptr<Run> Executor::Impl::make_run(RunInputs inputs, Deadline deadline) {
  const Place place = transport.message_place();
  notes.reserve(note_bytes(inputs.schedule, transport.size()), copier, place);
  copier.reserve(kCopiesOfNotes, kBatchesOfNotes);
  std::optional<SourceMap> mapped = std::exchange(sources, std::nullopt);
  std::shared_ptr<OpenSources> open_sources = std::exchange(opened, nullptr);
  OneSided* const one_sided = transport.one_sided();
  if (inputs.allow_one_sided && !inputs.streaming && one_sided != nullptr) {
    return mapped.has_value() ? std::make_unique<PulledRun>(
                                    std::move(inputs), ports(), std::move(open_sources), *mapped)
                              : make_mapping_run(std::move(inputs), *one_sided, deadline);
  }
  open_sources.reset();  // what was mapped ahead; all ranks go by messages
  std::shared_ptr<const Staging> staging = arena.take(inputs.schedule, transport, copier);
  return std::make_unique<StagedRun>(std::move(inputs), ports(), std::move(staging));
}

PreparedRun::PreparedRun(std::unique_ptr<Run> run)
    : run_(std::move(run)), table_bytes_(run_->table_bytes()) {}

PreparedRun::~PreparedRun() = default;

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

DividedPlan Executor::map_sources(const Plan& plan,
                                  const ShardMap& source,
                                  const TensorMemory& source_memory,
                                  const ExecuteOptions& options) {
  OneSided* const one_sided = impl_->transport.one_sided();
  if (one_sided == nullptr) {
    return {.in_place = part_of(plan, source, [](const Move& /*move*/) { return false; }),
            .by_messages = plan,
            .problem = {}};
  }
  // Stays open where this fails: peers map, too.
  impl_->opened = impl_->open(*one_sided);
  DividedSources made = divide_sources(*one_sided,
                                       impl_->ports(),
                                       {.plan = plan, .map = source, .memory = source_memory},
                                       deadline_in(options.timeout));
  impl_->sources = std::move(made.map);
  return std::move(made.plans);
}

std::unique_ptr<PreparedRun> Executor::prepare(RunInputs inputs, const ExecuteOptions& options) {
  return std::make_unique<PreparedRun>(
      impl_->make_run(std::move(inputs), deadline_in(options.timeout)));
}

std::unique_ptr<Watermark> Executor::make_watermark() {
  return std::make_unique<Watermark>(impl_->transport, impl_->tags);
}

RunResult Executor::run(PreparedRun& prepared, const ExecuteOptions& options, RunControl& control) {
  DYNATRAIN_CHECK(prepared.run_ != nullptr, "execution: a prepared run was to run a second time");
  const Deadline deadline = deadline_in(options.timeout);
  RunMonitor monitor(
      impl_->watcher, impl_->transport, prepared.run_->watermark(), control, deadline);
  return run_to_end([&] { return std::move(prepared.run_); },
                    RunCall{options, control, monitor, deadline});
}

RunResult Executor::run(RunInputs inputs, const ExecuteOptions& options, RunControl& control) {
  const Deadline deadline = deadline_in(options.timeout);
  Watermark* const watermark = inputs.streaming ? &inputs.streaming->watermark : nullptr;
  RunMonitor monitor(impl_->watcher, impl_->transport, watermark, control, deadline);
  return run_to_end([&] { return impl_->make_run(std::move(inputs), deadline); },
                    RunCall{options, control, monitor, deadline});
}

}  // namespace dynatrain

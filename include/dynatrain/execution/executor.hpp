#pragma once

#include "dynatrain/execution/copier.hpp"
#include "dynatrain/execution/stream.hpp"
#include "dynatrain/execution/tensor_memory.hpp"
#include "dynatrain/execution/transport.hpp"
#include "dynatrain/schedule/schedule.hpp"

#include <atomic>
#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

namespace dynatrain {

/// A span of work of one rank, for timelines. Seconds since the executor started to run.
struct TraceSpan {
  /// Of messages: pack, wire, unpack. Of sources that are read in place: agree (what is read is
  /// final), wire, sums (the owners' are fetched), release (of the peers' memory), acknowledge (all
  /// readers have read). Of both: local copies, and verify, which compares sums.
  enum class Phase : std::uint8_t {
    kPack,
    kWire,
    kUnpack,
    kLocal,
    kVerify,
    kAgree,
    kSums,
    kRelease,
    kAcknowledge
  };
  Phase phase = Phase::kPack;
  int stage = 0;
  int stream = -1;  ///< of the copier's device, counted from 0; -1 for what runs on none of them
  double begin_seconds = 0;
  double end_seconds = 0;
  std::int64_t size_bytes = 0;
};

/// Opens and closes a range of a profiler on the calling thread; they nest. What they throw is
/// dropped. NVTX has its ranges by itself, where its headers were found.
struct RangeHook {
  std::function<void(const char* name)> begin;
  std::function<void()> end;
};

/// What a run moves, and where it lies. Plan, schedule and memory are this rank's own, all else is
/// equal on all ranks.
/// Ownership  plan, schedule and maps stay with the caller, until the run that is made of it has
///            gone; of memory only the addresses are kept.
struct RunInputs {
  const Plan& plan;
  const Schedule& schedule;
  const ShardMap& source;
  const ShardMap& target;
  TensorMemory source_memory;
  TensorMemory target_memory;
  /// Compare each receiver's sum of every part with the sender's (kSumBytes a part on the wire).
  bool verify_sums = true;
  /// Use the transport's one-sided part when it has one: one pass, no staging.
  bool allow_one_sided = true;
  /// Free the source while the target arrives; goes by messages. `target_memory` has the sizes of
  /// all tensors then, and addresses of those alone that lie in memory of the source.
  std::optional<Streaming> streaming = std::nullopt;
};

/// How to run. Equal on all ranks but for what is said to be this rank's own.
struct ExecuteOptions {
  std::chrono::milliseconds timeout{60000};  ///< of the whole call, whichever takes it; its own
  /// This rank's own: nothing is read or written before they are done. What still writes the source
  /// on a stream of the caller, or fills the target's memory there.
  // The braces spare those who name other members a warning of GCC.
  std::vector<Token> after{};  // NOLINT(readability-redundant-member-init)
  /// This rank's own: told while each phase of each stage is submitted, by the thread that calls
  /// run(); empty for none.
  RangeHook ranges{};  // NOLINT(readability-redundant-member-init)
};

/// Lets another thread watch and stop a run. Threads: any.
struct RunControl {
  std::atomic<bool> cancel{false};
  std::atomic<std::int64_t> landed_bytes{0};
  std::atomic<int> landed_stages{0};
  /// Stages that every rank has landed: what they read of the source has been freed, or is about to
  /// be. 0 in a run that does not stream.
  std::atomic<int> freed_stages{0};
};

struct RunResult {
  std::vector<TraceSpan> spans;
  double seconds = 0;
  std::int64_t staging_peak_bytes = 0;
  std::int64_t adopted_bytes = 0;  ///< kept without a copy, as source and target share the address
};

class Run;  // csrc/execution/run.hpp

/// A run that was made ahead of its time; see Executor::prepare(). It runs once. What it has open
/// of a one-sided transport is closed with it, or when another run is mapped: it does not run then.
class PreparedRun {
 public:
  explicit PreparedRun(std::unique_ptr<Run> run);
  ~PreparedRun();
  PreparedRun(const PreparedRun&) = delete;
  PreparedRun& operator=(const PreparedRun&) = delete;

  /// Memory of the copier's device, beside staging, in which its copies are laid out; 0 for a
  /// copier of the host.
  [[nodiscard]] std::int64_t table_bytes() const { return table_bytes_; }

 private:
  friend class Executor;
  std::unique_ptr<Run> run_;
  std::int64_t table_bytes_;
};

/// A plan by the ways that its moves take. Both ends of a pair have divided its list alike.
struct DividedPlan {
  Plan in_place;     ///< what its receivers read where it lies
  Plan by_messages;  ///< all the rest: of other machines, in memory that cannot be mapped, local
  /// Why moves between ranks that reach each other's memory are in `by_messages`, as far as it is
  /// up to this rank; empty where it is not.
  std::string problem;
};

/// Runs schedules of one rank over a transport and a copier. Reusable; one run at a time.
class Executor {
 public:
  /// Ownership: keeps references; both must outlive the executor. Has a thread, which watches runs.
  /// Errors: DeviceError when the system gives no thread.
  Executor(Transport& transport, Copier& copier, int first_tag);
  ~Executor();
  Executor(const Executor&) = delete;
  Executor& operator=(const Executor&) = delete;

  /// Exchanges the hashes of every pair's list (law 4); also warms the links. Collective over the
  /// plan's peers. Errors: TransportError naming the peer and both hashes; nothing was moved.
  void agree(const Plan& plan, const ExecuteOptions& options);

  /// Makes the sources of this rank's peers readable in place for the next run that is prepared,
  /// as far as they can be, and agrees on that with each of them. Reads no source byte: contents
  /// may change until every rank is in run(), addresses may not. Collective over all ranks of the
  /// transport, one after the other with run().
  ///
  /// Returns  the plan in two. The run that is prepared next takes `in_place`, or the whole plan
  ///          where no rank has moves in `by_messages`. Where no rank has any in `in_place`, one
  ///          run with allow_one_sided = false takes the whole plan.
  /// Errors   TransportError when a peer is gone or late, or has divided its list otherwise;
  ///          nothing was moved.
  [[nodiscard]] DividedPlan map_sources(const Plan& plan,
                                        const ShardMap& source,
                                        const TensorMemory& source_memory,
                                        const ExecuteOptions& options);

  /// Makes a run ahead of its time, so that run() pays for moving bytes alone: takes and touches
  /// staging, turns parts into copies, binds them to their memory and lets the copier lay them out.
  /// One-sided, it takes the sources that were mapped, or maps them itself and is collective then:
  /// all moves between ranks must be such as can be read in place.
  /// Ownership  the executor must outlive what is returned, and memory must stay where it is. Runs
  ///            that are prepared share their staging.
  /// Errors     as run(), InternalError also when sources were mapped for other addresses or lists;
  ///            DeviceError, std::bad_alloc. Nothing was moved. Where it maps by itself, the
  ///            transport is aborted: the peers are at it as well.
  [[nodiscard]] std::unique_ptr<PreparedRun> prepare(RunInputs inputs,
                                                     const ExecuteOptions& options);

  /// For a run that streams, of this executor or another one, whose transport's messages lie in
  /// host memory. No other run of this executor may begin while it is told.
  /// Ownership  the executor must outlive what is returned.
  /// Errors     DeviceError when there is no thread.
  [[nodiscard]] std::unique_ptr<Watermark> make_watermark();

  /// Moves everything. Collective. Source memory is only read, unless the run streams.
  /// Ownership  nothing touches target memory after the call ends. One-sided: until the peers'
  /// calls
  ///            have ended too, they may read the source.
  /// Errors   TransportError (peer, stage), deadline or cancel included: the transport is aborted,
  ///          target memory is undefined, source memory is untouched; of a run that streams, what
  ///          the control says has landed and is freed holds. InternalError when `prepared`
  ///          has run before, and when target memory lies over source memory that is not adopted;
  ///          nothing was moved.
  RunResult run(PreparedRun& prepared, const ExecuteOptions& options, RunControl& control);
  /// Prepares and runs in one call.
  RunResult run(RunInputs inputs, const ExecuteOptions& options, RunControl& control);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace dynatrain

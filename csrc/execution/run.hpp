#pragma once

#include "dynatrain/execution/executor.hpp"

#include "execution/program.hpp"
#include "execution/run_monitor.hpp"
#include <cstddef>
#include <cstdint>

namespace dynatrain {

/// How one call runs what was prepared.
struct RunCall {
  const ExecuteOptions& options;
  RunControl& control;
  RunMonitor& monitor;
  Deadline deadline;
};

/// A run of one rank, bound to its memory: staged or pulled. Made, run, drained, reported, once
/// each.
class Run {
 public:
  Run() = default;
  Run(const Run&) = delete;
  Run& operator=(const Run&) = delete;
  virtual ~Run() = default;

  /// Errors: the first failure of this rank's part; the caller drains before it goes on.
  virtual void run(const RunCall& call) = 0;
  /// Waits until nothing touches memory any more; false when something still does after kDrainTime.
  [[nodiscard]] virtual bool drain_all() const noexcept = 0;
  /// That the run tells its stages to; null where it frees nothing.
  [[nodiscard]] virtual Watermark* watermark() const { return nullptr; }
  /// Adds what the run has measured.
  virtual void report(const RunMonitor& monitor, RunResult& result) const = 0;
  /// Device memory that its batches were laid out in.
  [[nodiscard]] virtual std::int64_t table_bytes() const = 0;
};

/// The span of a batch of copies that has ended.
[[nodiscard]] TraceSpan span_of(const RunMonitor& monitor,
                                TraceSpan::Phase phase,
                                std::size_t stage,
                                const CopyTimes& times,
                                std::int64_t size_bytes);

/// Tells the run's control that stage `k` has landed, and the log at level DEBUG.
void tell_landed(const RunInputs& run,
                 RunControl& control,
                 const StageProgram& program,
                 std::size_t k);

}  // namespace dynatrain

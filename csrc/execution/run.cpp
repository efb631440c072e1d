#include "execution/run.hpp"

#include "dynatrain/base/log.hpp"

#include <string>

namespace dynatrain {

TraceSpan span_of(const RunMonitor& monitor,
                  TraceSpan::Phase phase,
                  std::size_t stage,
                  const CopyTimes& times,
                  std::int64_t size_bytes) {
  return {.phase = phase,
          .stage = static_cast<int>(stage),
          .stream = times.stream,
          .begin_seconds = monitor.seconds_at(times.begin),
          .end_seconds = monitor.seconds_at(times.end),
          .size_bytes = size_bytes};
}

void tell_landed(const RunInputs& run,
                 RunControl& control,
                 const StageProgram& program,
                 std::size_t k) {
  control.landed_bytes += program.received_bytes + program.local_bytes;
  control.landed_stages = static_cast<int>(k) + 1;
  log(LogLevel::kDebug,
      "execution",
      "rank " + std::to_string(run.schedule.rank) + ": stage " + std::to_string(k + 1) + " of " +
          std::to_string(run.schedule.stages.size()) + " landed; sent " +
          std::to_string(program.sent_bytes) + " bytes, received " +
          std::to_string(program.received_bytes) + ", kept " + std::to_string(program.local_bytes));
}

}  // namespace dynatrain

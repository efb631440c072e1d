#pragma once

#include "execution/program.hpp"
#include "execution/run_inputs.hpp"
#include "execution/run_monitor.hpp"
#include <cstdint>
#include <vector>

namespace dynatrain {

/// Runs stages over the one-sided part of a transport: each part is read where its owner keeps it,
/// in one strided pass; owners withdraw their memory after every reader has acknowledged.
class PulledRun {
 public:
  /// `first_exposed` numbers the buffers of this run, so that a peer's older ones are not met.
  PulledRun(const RunInputs& run,
            const Ports& ports,
            RunMonitor& monitor,
            std::int64_t first_exposed);

  /// Errors: the first failure of this rank's part; the caller drains before it goes on.
  void run();
  /// Withdraws this rank's memory and waits until no copy runs any more; false when one still does
  /// after kDrainTime.
  [[nodiscard]] bool drain_all() const noexcept;
  void report(RunResult& result) const;

 private:
  struct Running {
    CopyTimes pull_times;
    CopyTimes local_times;
    Token pulled;
    Token copied;
  };

  void expose() const;
  void map_peers();
  void retire(std::size_t k);
  void acknowledge();

  const RunInputs& run_;
  Ports ports_;
  RunMonitor& monitor_;
  std::int64_t first_exposed_;
  PullProgram program_;
  AddressTable addresses_;
  std::vector<Running> running_;
  std::int64_t adopted_bytes_ = 0;
};

}  // namespace dynatrain

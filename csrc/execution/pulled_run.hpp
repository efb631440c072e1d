#pragma once

#include "execution/notes.hpp"
#include "execution/program.hpp"
#include "execution/run_inputs.hpp"
#include "execution/run_monitor.hpp"
#include "execution/source_map.hpp"
#include <cstdint>
#include <optional>
#include <vector>

namespace dynatrain {

/// Runs stages over the one-sided part of a transport: each part is read where its owner keeps it,
/// in one strided pass; owners withdraw their memory after every reader has acknowledged.
class PulledRun {
 public:
  /// `sources` are those that were mapped ahead for this run; without them the run maps itself.
  PulledRun(const RunInputs& run,
            const Ports& ports,
            RunMonitor& monitor,
            std::optional<SourceMap> sources);

  /// Errors: the first failure of this rank's part; the caller drains before it goes on.
  void run();
  /// Waits until no copy runs any more, then lets go of the peers' memory and withdraws this
  /// rank's; false when a copy still runs after kDrainTime.
  [[nodiscard]] bool drain_all() const noexcept;
  void report(RunResult& result) const;

 private:
  struct Running {
    CopyTimes pull_times;
    CopyTimes local_times;
    Token pulled;
    Token copied;
    std::vector<std::uint64_t> sums;  ///< of what was pulled, in the order of the stage's checks
    double verify_begin_seconds = 0;
    double verify_end_seconds = 0;
  };

  void map_peers();
  void meet_owners();
  /// Tells readers the sums of what they read here, and takes those of what this rank reads.
  void exchange_sums();
  void verify(std::size_t k);
  void retire(std::size_t k);
  void acknowledge();

  const RunInputs& run_;
  Ports ports_;
  RunMonitor& monitor_;
  std::optional<SourceMap> sources_;
  PullProgram program_;
  AddressTable addresses_;
  std::vector<Running> running_;
  Token summed_;                             ///< `program_.exposed`
  std::vector<std::uint64_t> exposed_sums_;  ///< read once `summed_`
  std::vector<Note> sent_sums_;              ///< by owner, once they were exchanged
  std::int64_t adopted_bytes_ = 0;
};

}  // namespace dynatrain

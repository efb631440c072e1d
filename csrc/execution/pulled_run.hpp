#pragma once

#include "execution/notes.hpp"
#include "execution/program.hpp"
#include "execution/run.hpp"
#include "execution/source_map.hpp"
#include <cstdint>
#include <memory>
#include <vector>

namespace dynatrain {

/// Runs stages over the one-sided part of a transport: each part is read where its owner keeps it,
/// in one strided pass; owners withdraw their memory after every reader has acknowledged.
class PulledRun final : public Run {
 public:
  /// `open` closes what was mapped as `sources`, with this run.
  PulledRun(RunInputs inputs,
            const Ports& ports,
            std::shared_ptr<OpenSources> open,
            const SourceMap& sources);

  void run(const RunCall& call) override;
  /// Lets go of the peers' memory and withdraws this rank's as well.
  [[nodiscard]] bool drain_all() const noexcept override;
  void report(const RunMonitor& monitor, RunResult& result) const override;
  [[nodiscard]] std::int64_t table_bytes() const override { return table_bytes_; }

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

  /// Runs `work` of the host and keeps how long it took.
  template <class Work>
  void timed(const RunCall& call, TraceSpan::Phase phase, Work work);
  /// Errors: InternalError when a later run has mapped its own meanwhile.
  void check_open() const;
  void set_addresses_of(const SourceMap& sources);
  void meet_owners(const RunCall& call);
  /// Tells readers the sums of what they read here, and takes those of what this rank reads.
  void exchange_sums(const RunCall& call);
  void verify(const RunCall& call, std::size_t k);
  void retire(const RunCall& call, std::size_t k);
  void acknowledge(const RunCall& call);

  RunInputs inputs_;
  Ports ports_;
  std::shared_ptr<OpenSources> open_;
  PullProgram program_;
  AddressTable addresses_;
  std::vector<Running> running_;
  Token summed_;                             ///< `program_.exposed`
  std::vector<std::uint64_t> exposed_sums_;  ///< read once `summed_`
  std::vector<Note> sent_sums_;              ///< by owner, ascending, once they were exchanged
  std::vector<TraceSpan> host_spans_;        ///< of what is no copy
  std::int64_t adopted_bytes_ = 0;
  std::int64_t table_bytes_ = 0;
};

}  // namespace dynatrain

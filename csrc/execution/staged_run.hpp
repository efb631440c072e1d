#pragma once

#include "execution/notes.hpp"
#include "execution/program.hpp"
#include "execution/run_inputs.hpp"
#include "execution/run_monitor.hpp"
#include "execution/staging_arena.hpp"
#include <cstdint>
#include <vector>

namespace dynatrain {

/// Runs stages through the two slots: pack k+1 | wire k | unpack k-1. A stage is retired, which is
/// the only wait on the host, before the second next one takes its slot.
class StagedRun {
 public:
  /// `slots` holds the addresses of the slots too.
  StagedRun(const RunInputs& run, const Ports& ports, RunMonitor& monitor, StagingArena& arena);

  /// Errors: the first failure of this rank's part; the caller drains before it goes on.
  void run();
  /// Waits until nothing touches memory any more; false when something still does after kDrainTime.
  [[nodiscard]] bool drain_all() const noexcept;
  /// Adds what the run has measured.
  void report(RunResult& result) const;

 private:
  struct Running {
    CopyTimes pack_times;
    CopyTimes unpack_times;
    CopyTimes local_times;
    const std::uint64_t* sent_sums = nullptr;  ///< host memory; read once `unpacked`
    const std::uint64_t* own_sums = nullptr;
    Token packed;
    Token sent;
    Token received;
    Token unpacked;
    Token copied;
    double verify_begin_seconds = 0;
    double verify_end_seconds = 0;
  };

  /// Lets stage k's batches add, zero and read back their sums; returns the words that it takes of
  /// the arena, beginning at `first_word`.
  std::int64_t place_sums(std::size_t k, const StagingArena& arena, std::int64_t first_word);
  void begin_stage(std::size_t k);
  void post(std::size_t k);
  void retire(std::size_t k);
  void verify(std::size_t k);
  [[nodiscard]] WireMessage to_wire(const ProgramMessage& message, std::uint32_t tag) const;
  [[nodiscard]] int stage_index(std::size_t k) const { return static_cast<int>(k); }

  const RunInputs& run_;
  Ports ports_;
  RunMonitor& monitor_;
  std::vector<StageProgram> program_;
  AddressTable addresses_;
  std::vector<Running> running_;
  std::int64_t adopted_bytes_ = 0;
};

}  // namespace dynatrain

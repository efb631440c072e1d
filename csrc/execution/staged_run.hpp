#pragma once

#include "execution/notes.hpp"
#include "execution/program.hpp"
#include "execution/run.hpp"
#include "execution/staging_arena.hpp"
#include "execution/streamed_stages.hpp"
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

namespace dynatrain {

/// Runs stages through the slots: pack k+1 | wire k | unpack k-1. A stage is retired, which is the
/// only wait on the host, before a later one takes its slot.
class StagedRun final : public Run {
 public:
  StagedRun(RunInputs inputs, const Ports& ports, std::shared_ptr<const Staging> staging);

  void run(const RunCall& call) override;
  [[nodiscard]] bool drain_all() const noexcept override;
  [[nodiscard]] Watermark* watermark() const override {
    return inputs_.streaming ? &inputs_.streaming->watermark : nullptr;
  }
  void report(const RunMonitor& monitor, RunResult& result) const override;
  [[nodiscard]] std::int64_t table_bytes() const override { return table_bytes_; }

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

  /// Lets stage k's batches add, zero and read back their sums, the senders' gathered behind this
  /// rank's own; returns how many it has, the first of which is the run's `first_sum`.
  std::int64_t place_sums(std::size_t k, std::int64_t first_sum);
  void begin_stage(const RunCall& call, std::size_t k);
  void post(const RunCall& call, std::size_t k);
  void retire(const RunCall& call, std::size_t k);
  void verify(const RunCall& call, std::size_t k);
  [[nodiscard]] WireMessage to_wire(const ProgramMessage& message, std::uint32_t tag) const;
  /// Stages that hold a slot at a time.
  [[nodiscard]] std::size_t num_in_flight() const {
    return std::min<std::size_t>(kNumSlots, program_.size());
  }
  [[nodiscard]] int stage_index(std::size_t k) const { return static_cast<int>(k); }

  RunInputs inputs_;
  Ports ports_;
  std::shared_ptr<const Staging> staging_;
  std::vector<StageProgram> program_;
  AddressTable addresses_;
  std::optional<StreamedStages> streamed_;
  std::vector<Running> running_;
  std::int64_t adopted_bytes_ = 0;
  std::int64_t table_bytes_ = 0;
};

}  // namespace dynatrain

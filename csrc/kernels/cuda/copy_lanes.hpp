#pragma once

#include "dynatrain/base/device_completion.hpp"
#include "dynatrain/execution/copier.hpp"

#include "kernels/cuda/stream_device.hpp"
#include "kernels/cuda/table_pool.hpp"
#include <cstdint>
#include <deque>
#include <exception>
#include <memory>
#include <mutex>
#include <span>
#include <vector>

namespace dynatrain {

/// What a launch needs to know of a batch beside its table.
struct TableParts {
  TableSize size;
  std::uint64_t* device_sums = nullptr;  ///< the kernel adds there
  std::uint64_t* host_sums = nullptr;    ///< the table's own sums are added there at the end
  std::vector<ReadBack> device_reads;    ///< on the stream
  std::vector<ReadBack> host_reads;      ///< of host memory; at the end, once sums were added there
};

/// A batch whose table lies on the device already, for one set of addresses.
struct PreparedTable final : PreparedBatch {
  [[nodiscard]] std::int64_t size_bytes() const override {
    return memory == nullptr ? 0 : parts.size.layout.total_bytes;
  }

  const void* copier = nullptr;  ///< whose it is
  std::uint64_t revision = 0;    ///< of the addresses
  TableParts parts;
  std::shared_ptr<TableMemory> memory;  ///< null when there is nothing to copy
  /// From its submission to its end: its own sums serve one launch at a time. Guarded by CopyLanes.
  bool is_under_way = false;
};

/// A batch from its submission to its end. Guarded by its CopyLanes.
struct LaneBatch {
  enum class State : std::uint8_t { kWaiting, kOnStream, kEnded };

  TableParts parts;
  std::shared_ptr<TableMemory> memory;
  std::shared_ptr<PreparedTable> prepared;  ///< whose memory it is; null: the lanes' own
  std::span<const std::span<std::byte>> zeroed;
  CopyTimes* times = nullptr;
  State state = State::kWaiting;
  std::size_t lane = 0;
  std::unique_ptr<DeviceEvent> begin;  ///< only with times
  std::unique_ptr<DeviceEvent> end;
  std::exception_ptr error;

  [[nodiscard]] bool has_work() const {
    return parts.size.num_units > 0 || !zeroed.empty() || !parts.device_reads.empty() ||
           !parts.host_reads.empty();
  }
};

/// The streams of a copier and what is on them. Lane 0 takes batches that wait for nothing; each
/// other lane takes one batch that waits for events, and what comes directly behind it. So nothing
/// stands behind a wait that is not its own.
/// Threads  any thread may call anything. No lock is held while a token is asked.
class CopyLanes {
 public:
  explicit CopyLanes(std::unique_ptr<StreamDevice> device);

  [[nodiscard]] StreamDevice& device() { return *device_; }
  /// As TablePool::take(), once batches that have ended have given back theirs.
  [[nodiscard]] std::shared_ptr<TableMemory> take_memory(std::int64_t size_bytes);
  /// The table for one launch; false while an earlier launch has it.
  [[nodiscard]] bool take(PreparedTable& table);
  void reserve(std::int64_t size_bytes, int num_memories) {
    tables_->reserve(size_bytes, num_memories);
  }

  /// Puts the batch on a stream behind the tokens in `pending`, all of which are on streams. False
  /// when every lane for it is taken.
  bool launch(const std::shared_ptr<LaneBatch>& batch, std::span<const Token> pending);
  /// Ends a batch that was not launched.
  void fail(LaneBatch& batch, std::exception_ptr error);

  [[nodiscard]] bool has_ended(LaneBatch& batch);
  /// False as well for a batch that has failed: who comes after it has to see that on the host.
  [[nodiscard]] bool is_on_stream(const LaneBatch& batch);
  void order_before(LaneBatch& batch, void* stream);
  /// Throws what the batch failed with; only once it has ended.
  void check(const LaneBatch& batch);
  /// Waits until all lanes are empty; ends what is left at the deadline with an error, and never
  /// frees what it was given.
  void drain(Deadline deadline);

 private:
  using Lane = std::deque<std::shared_ptr<LaneBatch>>;

  [[nodiscard]] std::size_t choose_lane(std::span<const Token> pending);
  [[nodiscard]] bool is_empty(std::size_t lane);
  [[nodiscard]] bool is_empty_locked(std::size_t lane);
  void end_empty(LaneBatch& batch);
  void put_on_stream(LaneBatch& batch);
  bool has_ended_locked(LaneBatch& batch);
  /// A batch that failed while it was put on its stream ends behind what is there of it.
  void fail_on_stream(const std::shared_ptr<LaneBatch>& batch, std::exception_ptr error);
  void finish(LaneBatch& batch);
  static void fetch_results(const LaneBatch& batch);
  static void give_back_table(LaneBatch& batch);
  void give_up(LaneBatch& batch, const std::exception_ptr& error);
  std::unique_ptr<DeviceEvent> take_event();

  /// Failed batches whose tables and events the device may still use: kept for as long as it lives.
  std::vector<std::shared_ptr<LaneBatch>> given_up_;
  std::unique_ptr<StreamDevice> device_;
  std::shared_ptr<TablePool> tables_;
  std::mutex launch_mutex_;  ///< one launch at a time; taken before mutex_
  std::mutex mutex_;
  std::vector<Lane> lanes_;
  std::vector<std::unique_ptr<DeviceEvent>> free_events_;
};

/// The token of a batch.
class BatchCompletion final : public DeviceCompletion {
 public:
  BatchCompletion(std::shared_ptr<CopyLanes> lanes, std::shared_ptr<LaneBatch> batch)
      : lanes_(std::move(lanes)), batch_(std::move(batch)) {}

  [[nodiscard]] bool done() const override { return lanes_->has_ended(*batch_); }
  void wait(Deadline deadline) override;
  [[nodiscard]] bool is_on_stream() const override { return lanes_->is_on_stream(*batch_); }
  void order_before(void* stream) override { lanes_->order_before(*batch_, stream); }

  [[nodiscard]] const LaneBatch* batch() const { return batch_.get(); }

 private:
  std::shared_ptr<CopyLanes> lanes_;
  std::shared_ptr<LaneBatch> batch_;
};

}  // namespace dynatrain

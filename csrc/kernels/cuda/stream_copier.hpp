#pragma once

#include "dynatrain/execution/copier.hpp"

#include "kernels/cuda/box_table_builder.hpp"
#include "kernels/cuda/copy_lanes.hpp"
#include <atomic>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <span>
#include <thread>
#include <vector>

namespace dynatrain {

/// The Copier of a device with streams. Batches whose tokens are done or on streams are launched by
/// the caller of submit; the others wait with one thread, which launches them.
class StreamCopier final : public Copier {
 public:
  explicit StreamCopier(std::unique_ptr<StreamDevice> device);
  /// Fails what still waits on the host, and waits for what is on streams.
  ~StreamCopier() override;
  StreamCopier(const StreamCopier&) = delete;
  StreamCopier& operator=(const StreamCopier&) = delete;

  std::unique_ptr<CopierMemory> allocate(std::int64_t size_bytes, Place place) override;
  void reserve(std::int64_t num_copies, int num_batches) override;
  [[nodiscard]] std::vector<std::shared_ptr<PreparedBatch>> prepare(
      std::span<const CopyBatch* const> batches, const AddressTable& addresses) override;
  [[nodiscard]] Place place_of(const std::byte* memory) const override;
  Token submit(const CopyBatch& batch,
               const AddressTable& addresses,
               std::span<const Token> after) override;

 private:
  struct Waiting {
    std::shared_ptr<LaneBatch> batch;
    std::vector<Token> after;
  };

  /// The batch with a table of its own, or with the one that was prepared for it.
  [[nodiscard]] std::shared_ptr<LaneBatch> lay_out(const CopyBatch& batch,
                                                   const AddressTable& addresses);
  /// What was prepared of the batch, if it serves for these addresses and nobody has it.
  [[nodiscard]] std::shared_ptr<PreparedTable> take_prepared(const CopyBatch& batch,
                                                             const AddressTable& addresses);
  /// All that a launch needs but the table's memory; the table is what builder_ has built.
  [[nodiscard]] TableParts parts_of(const CopyBatch& batch, const AddressTable& addresses);
  /// Launches the batch, or fails it with what one of its tokens failed with. False when it has to
  /// wait on the host.
  bool try_launch(const std::shared_ptr<LaneBatch>& batch, std::span<const Token> after);
  void watch();
  /// A token of the oldest waiting batch that has not ended; empty when it waits for a lane.
  [[nodiscard]] static Token first_pending(const std::vector<Waiting>& waiting);

  BoxTableBuilder builder_;
  std::shared_ptr<CopyLanes> lanes_;
  std::mutex mutex_;
  std::condition_variable has_new_;
  std::vector<Waiting> new_;  ///< handed to the watcher, which keeps its own list
  bool is_over_ = false;
  std::thread watcher_;
};

}  // namespace dynatrain

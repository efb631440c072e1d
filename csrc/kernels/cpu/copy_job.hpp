#pragma once

#include "dynatrain/base/token.hpp"
#include "dynatrain/execution/copier.hpp"

#include "kernels/cpu/strided_range.hpp"
#include <atomic>
#include <cstdint>
#include <exception>
#include <memory>
#include <span>
#include <vector>

namespace dynatrain {

/// One submitted batch, bound to its addresses and cut into chunks of about equal cost, whatever
/// the sizes of its copies are. Threads: chunks may run at the same time, each once.
class CopyJob {
 public:
  /// Errors: InternalError when a copy would leave its buffer; nothing was written.
  CopyJob(const CopyBatch& batch,
          const AddressTable& addresses,
          std::span<const Token> after,
          int num_threads);

  [[nodiscard]] std::int64_t num_chunks() const { return num_chunks_; }
  /// Once, after the batch's tokens and before any chunk.
  void begin();
  /// What it fails with is the completion's, once the last chunk has ended.
  void run_chunk(std::int64_t chunk) noexcept;

  /// True once every token that the batch comes after has ended, well or badly.
  [[nodiscard]] bool is_ready() const;
  /// A token that has not ended yet; only while !is_ready().
  [[nodiscard]] Token first_pending() const;
  /// Throws what one of the tokens failed with; only once is_ready().
  void check_after() const;

  [[nodiscard]] const std::shared_ptr<HostCompletion>& completion() const { return completion_; }

 private:
  void run_copies(std::int64_t chunk);
  void run_copy(std::size_t index, Interval costs);
  void end() noexcept;

  const CopyBatch& batch_;
  std::vector<BoundCopy> bound_;
  std::vector<std::int64_t> first_cost_;  ///< of each copy, and the total at the end
  std::int64_t chunk_cost_ = 1;
  std::int64_t num_chunks_ = 0;
  std::vector<Token> after_;
  std::atomic<std::int64_t> chunks_begun_{0};
  std::atomic<std::int64_t> chunks_left_{0};
  std::atomic_flag has_failed_;
  std::exception_ptr error_;  ///< of the first chunk that failed
  std::shared_ptr<HostCompletion> completion_ = std::make_shared<HostCompletion>();
};

}  // namespace dynatrain

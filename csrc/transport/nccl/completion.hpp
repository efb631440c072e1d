#pragma once

#include "dynatrain/base/device_completion.hpp"

#include "transport/nccl/world.hpp"
#include <cstddef>
#include <cstdint>
#include <exception>
#include <memory>
#include <mutex>
#include <vector>

namespace dynatrain {

/// One exchange: an event per group, in the order of the stream.
///
/// It ends when the device has let go of its memory: after an error, that is when the aborted
/// kernels are gone. Waiting looks at the communicator too; at the exchange's deadline, or when
/// NCCL reports an error, the communicator is aborted and the error names the peers of the first
/// group that has not ended.
class NcclCompletion final : public DeviceCompletion {
 public:
  NcclCompletion(std::shared_ptr<NcclWorld> world, Deadline deadline);
  ~NcclCompletion() override;
  NcclCompletion(const NcclCompletion&) = delete;
  NcclCompletion& operator=(const NcclCompletion&) = delete;

  /// Takes the memory for `num_groups`. Only before the exchange is posted.
  void reserve(std::size_t num_groups) { posted_.reserve(num_groups); }
  /// One of those that there is memory for. Only while the exchange is being posted.
  void add_group(void* event, std::vector<int> peers) noexcept;
  /// The exchange could not be posted, or only in part.
  void fail(std::exception_ptr error) { error_ = std::move(error); }

  [[nodiscard]] bool done() const override;
  void wait(Deadline deadline) override;
  [[nodiscard]] bool is_on_stream() const override;
  void order_before(void* stream) override;

 private:
  struct Posted {
    void* event = nullptr;
    std::vector<int> peers;
  };
  enum class State : std::uint8_t { kPending, kGood, kFailed };

  [[nodiscard]] State look() const;
  [[nodiscard]] bool has_left_device() const;
  [[nodiscard]] std::vector<int> pending_peers() const;
  void look_at_limits() noexcept;
  [[noreturn]] void throw_failure() const;
  [[noreturn]] void throw_still_pending() const;

  std::shared_ptr<NcclWorld> world_;
  Deadline deadline_;
  std::vector<Posted> posted_;
  std::exception_ptr error_;
  mutable std::mutex mutex_;
  mutable State state_ = State::kPending;
};

}  // namespace dynatrain

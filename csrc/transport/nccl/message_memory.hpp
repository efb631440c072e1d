#pragma once

#include "dynatrain/execution/copier.hpp"

#include "transport/nccl/world.hpp"
#include <cstddef>
#include <cstdint>
#include <memory>

namespace dynatrain {

/// Memory of ncclMemAlloc, zeroed, and registered with the communicator of `world`.
///
/// Ownership  keeps the world, so it may outlive the transport; the communicator's end, whichever
///            comes first, ends the registration, and the memory stays. It is freed once an abort
///            has let go of it, and given up when that takes too long.
/// Threads    destroyed by any thread, while no operation uses it. A peer of this host that is
///            stopped can hold the destructor up: NCCL asks it to unmap, and knows no deadline.
class MessageMemory final : public CopierMemory {
 public:
  /// Errors: DeviceError, TransportError; nothing is left behind.
  MessageMemory(std::shared_ptr<NcclWorld> world, std::int64_t size_bytes);
  ~MessageMemory() override;
  MessageMemory(const MessageMemory&) = delete;
  MessageMemory& operator=(const MessageMemory&) = delete;

  [[nodiscard]] std::byte* data() const override { return data_; }

 private:
  void release() noexcept;

  std::shared_ptr<NcclWorld> world_;
  std::byte* data_ = nullptr;
  void* handle_ = nullptr;
};

}  // namespace dynatrain

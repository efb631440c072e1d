#pragma once

#include "transport/nccl/device_api.hpp"
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <vector>

namespace dynatrain {

/// A little pinned memory through which messages in host memory pass: hashes and acknowledgements,
/// not state. NCCL's kernels cannot read pageable memory.
class HostBounce {
 public:
  HostBounce(std::shared_ptr<DeviceApi> device, std::int64_t size_bytes);
  ~HostBounce();
  HostBounce(const HostBounce&) = delete;
  HostBounce& operator=(const HostBounce&) = delete;

  /// What one exchange has taken; goes back when the lease ends.
  class Lease {
   public:
    Lease() = default;
    explicit Lease(std::shared_ptr<HostBounce> owner) : owner_(std::move(owner)) {}
    Lease(Lease&& other) noexcept = default;
    Lease& operator=(Lease&& other) noexcept;
    Lease(const Lease&) = delete;
    Lease& operator=(const Lease&) = delete;
    ~Lease();

    /// Pinned memory that stands for `data`; deliver() copies to there what was received.
    /// Errors: TransportError when there is no room.
    [[nodiscard]] std::byte* stand_in(std::byte* data, std::int64_t size_bytes, bool is_send);
    void deliver();
    /// Never hands the memory out again.
    void give_up() { owner_ = nullptr; }

   private:
    struct Arrival {
      const std::byte* pinned = nullptr;
      std::byte* data = nullptr;
      std::int64_t size_bytes = 0;
    };

    std::shared_ptr<HostBounce> owner_;
    std::vector<Arrival> arrivals_;
  };

  [[nodiscard]] static Lease lease(const std::shared_ptr<HostBounce>& self);

 private:
  [[nodiscard]] std::byte* take(std::int64_t size_bytes);
  void end_lease();

  std::shared_ptr<DeviceApi> device_;
  std::int64_t size_bytes_;
  std::mutex mutex_;
  std::byte* memory_ = nullptr;
  std::int64_t used_bytes_ = 0;
  int num_leases_ = 0;
};

}  // namespace dynatrain

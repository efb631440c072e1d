#include "transport/nccl/host_bounce.hpp"

#include "dynatrain/base/error.hpp"

#include <cstring>
#include <string>
#include <utility>

namespace dynatrain {
namespace {

constexpr std::int64_t kAlignment = 16;

}  // namespace

HostBounce::HostBounce(std::shared_ptr<DeviceApi> device, std::int64_t size_bytes)
    : device_(std::move(device)),
      size_bytes_(size_bytes),
      memory_(device_->allocate_pinned(size_bytes)) {}

HostBounce::~HostBounce() {
  try {
    device_->free_pinned(memory_);
  } catch (...) {  // NOLINT(bugprone-empty-catch): the device is gone, and the memory with it
  }
}

HostBounce::Lease HostBounce::lease(const std::shared_ptr<HostBounce>& self) {
  const std::lock_guard lock(self->mutex_);
  ++self->num_leases_;
  return Lease(self);
}

std::byte* HostBounce::take(std::int64_t size_bytes) {
  const std::lock_guard lock(mutex_);
  if (size_bytes > size_bytes_ - used_bytes_) {
    throw TransportError("transport: a message of " + std::to_string(size_bytes) +
                             " bytes lies in host memory, and NCCL's share of pinned memory has " +
                             std::to_string(size_bytes_ - used_bytes_) + " of " +
                             std::to_string(size_bytes_) +
                             " bytes left\n  it was not sent\n  move host tensors over a host "
                             "transport, or raise host_bytes",
                         -1,
                         -1,
                         false);
  }
  std::byte* const begin = memory_ + used_bytes_;
  used_bytes_ += (size_bytes + kAlignment - 1) / kAlignment * kAlignment;
  return begin;
}

void HostBounce::end_lease() {
  const std::lock_guard lock(mutex_);
  if (--num_leases_ == 0) {
    used_bytes_ = 0;
  }
}

HostBounce::Lease::~Lease() {
  if (owner_ != nullptr) {
    owner_->end_lease();
  }
}

HostBounce::Lease& HostBounce::Lease::operator=(Lease&& other) noexcept {
  std::swap(owner_, other.owner_);
  std::swap(arrivals_, other.arrivals_);
  return *this;
}

std::byte* HostBounce::Lease::stand_in(std::byte* data, std::int64_t size_bytes, bool is_send) {
  std::byte* const pinned = owner_->take(size_bytes);
  if (is_send) {
    std::memcpy(pinned, data, static_cast<std::size_t>(size_bytes));
  } else {
    arrivals_.push_back({.pinned = pinned, .data = data, .size_bytes = size_bytes});
  }
  return pinned;
}

void HostBounce::Lease::deliver() {
  for (const Arrival& arrival : arrivals_) {
    std::memcpy(arrival.data, arrival.pinned, static_cast<std::size_t>(arrival.size_bytes));
  }
  arrivals_.clear();
}

}  // namespace dynatrain

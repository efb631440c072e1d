#pragma once

#include "dynatrain/base/token.hpp"

#include "transport/nccl/device_api.hpp"
#include "transport/nccl/nccl_api.hpp"
#include <chrono>
#include <memory>
#include <optional>
#include <vector>

namespace dynatrain {

/// The two libraries that a world stands on.
struct NcclLibraries {
  std::shared_ptr<NcclApi> nccl;
  std::shared_ptr<DeviceApi> device;
};

/// The stream of a world's groups, and an event for what an abort leaves there. It goes with the
/// last who needs it, the world or what ends its communicator.
class GroupStream {
 public:
  GroupStream(std::shared_ptr<DeviceApi> api, int device);
  ~GroupStream();
  GroupStream(const GroupStream&) = delete;
  GroupStream& operator=(const GroupStream&) = delete;

  [[nodiscard]] void* stream() const { return stream_; }
  [[nodiscard]] void* after_abort() const { return after_abort_; }

 private:
  std::shared_ptr<DeviceApi> api_;
  int device_;
  void* stream_ = nullptr;
  void* after_abort_ = nullptr;
};

/// What it takes to end a communicator, apart from the world that had it.
struct Ending {
  NcclLibraries libraries;
  int device = 0;
  NcclComm comm = nullptr;
  std::shared_ptr<GroupStream> stream;
  /// Finalized, so that network threads deliver what a finished send has only handed to them, with
  /// its registrations ended before; aborted when that does not succeed soon.
  bool in_peace = false;
  std::vector<void*> registrations;
  std::chrono::milliseconds timeout{};  ///< of the wait for all this
};

/// Ends the communicator in a thread of its own, and waits for that, but not for ever: NCCL's calls
/// that abort, destroy and deregister know no deadline. `ended` is set once NCCL has let go of
/// everything.
void end_communicator(Ending ending, const std::shared_ptr<HostCompletion>& ended) noexcept;

/// Makes a device current if it still answers; what NCCL is told to end is ended in any case.
void enter(std::optional<DeviceScope>& scope, DeviceApi& api, int device) noexcept;

}  // namespace dynatrain

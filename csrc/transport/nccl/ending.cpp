#include "transport/nccl/ending.hpp"

#include "dynatrain/base/pause.hpp"
#include "dynatrain/base/thread.hpp"

#include <chrono>
#include <exception>
#include <memory>
#include <utility>

namespace dynatrain {
namespace {

/// How long a communicator whose work has ended may take to close before it is aborted.
constexpr std::chrono::seconds kCloseTime{5};

bool is_good(NcclResult result) {
  return result == NcclResult::kSuccess || result == NcclResult::kInProgress;
}

bool close_in_peace(const Ending& ending) noexcept {
  NcclApi& nccl = *ending.libraries.nccl;
  for (void* const handle : ending.registrations) {
    static_cast<void>(nccl.comm_deregister(ending.comm, handle));
  }
  const Deadline deadline = deadline_in(kCloseTime);
  NcclResult result = nccl.comm_finalize(ending.comm);
  for (Pause pause; is_good(result); pause()) {
    result = nccl.async_error(ending.comm);
    if (result == NcclResult::kSuccess) {
      // Whatever it answers: a handle that was given to it is never touched again.
      static_cast<void>(nccl.comm_destroy(ending.comm));
      return true;
    }
    if (std::chrono::steady_clock::now() >= deadline) {
      return false;
    }
  }
  return false;
}

void abort(const Ending& ending) noexcept {
  // What it answers does not matter: the handle is gone, and an event tells when its kernels ended.
  static_cast<void>(ending.libraries.nccl->comm_abort(ending.comm));
  try {
    // Not earlier: until then a thread of NCCL may still put a kernel on the stream.
    ending.libraries.device->record(ending.stream->after_abort(), ending.stream->stream());
  } catch (...) {  // NOLINT(bugprone-empty-catch): the device is lost, and runs nothing any more
  }
}

/// Takes the ending with it: whoever sees `ended` finds the libraries let go.
void end(Ending ending, HostCompletion& ended) noexcept {
  {
    const Ending own = std::move(ending);
    std::optional<DeviceScope> scope;
    enter(scope, *own.libraries.device, own.device);
    if (!own.in_peace || !close_in_peace(own)) {
      abort(own);
    }
  }
  ended.set();
}

}  // namespace

void enter(std::optional<DeviceScope>& scope, DeviceApi& api, int device) noexcept {
  try {
    scope.emplace(api, device);
  } catch (...) {  // NOLINT(bugprone-empty-catch): the device is lost
  }
}

GroupStream::GroupStream(std::shared_ptr<DeviceApi> api, int device)
    : api_(std::move(api)), device_(device) {
  const DeviceScope scope(*api_, device_);
  stream_ = api_->create_stream();
  after_abort_ = api_->create_event();
}

GroupStream::~GroupStream() {
  try {
    const DeviceScope scope(*api_, device_);
    api_->destroy_event(after_abort_);
    api_->destroy_stream(stream_);
  } catch (...) {  // NOLINT(bugprone-empty-catch): the device is gone, and all this with it
  }
}

void end_communicator(Ending ending, const std::shared_ptr<HostCompletion>& ended) noexcept {
  const Deadline deadline = deadline_in(ending.timeout);
  try {
    const auto what = std::make_shared<Ending>(std::move(ending));
    start_thread("ends a communicator", [what, ended] { end(std::move(*what), *ended); }).detach();
    ended->wait(deadline);
  } catch (const std::exception&) {  // NOLINT(bugprone-empty-catch): late; who needs it looks again
  }
}

}  // namespace dynatrain

#include "transport/nccl/message_memory.hpp"

#include "dynatrain/base/pause.hpp"

#include <chrono>
#include <string>
#include <utility>

namespace dynatrain {
namespace {

/// How long an abort may take to let go of memory before that is given up.
constexpr std::chrono::seconds kAbortTime{5};

}  // namespace

MessageMemory::MessageMemory(std::shared_ptr<NcclWorld> world, std::int64_t size_bytes)
    : world_(std::move(world)) {
  const DeviceScope scope(world_->device(), world_->options().device);
  const NcclAnswer<std::byte*> answer = world_->nccl().mem_alloc(size_bytes);
  if (answer.result != NcclResult::kSuccess || answer.value == nullptr) {
    throw DeviceError("transport: ncclMemAlloc refused " + std::to_string(size_bytes) +
                      " bytes of staging on rank " + std::to_string(world_->rank()) +
                      "\n  NCCL says: " + world_->nccl().describe(answer.result, nullptr) +
                      "\n  nothing was sent\n  lower the staging budget, or leave "
                      "register_staging off");
  }
  data_ = answer.value;
  try {
    world_->device().zero(data_, size_bytes);
    handle_ = world_->register_memory(data_, size_bytes);
  } catch (...) {
    release();
    throw;
  }
}

MessageMemory::~MessageMemory() {
  release();
}

void MessageMemory::release() noexcept {
  if (handle_ != nullptr) {
    world_->deregister(handle_);
  }
  const Deadline deadline = deadline_in(kAbortTime);
  for (Pause pause; !world_->has_let_go(); pause()) {
    if (std::chrono::steady_clock::now() >= deadline) {
      return;  // still in use, as far as anyone can tell: never freed
    }
  }
  try {
    const DeviceScope scope(world_->device(), world_->options().device);
    static_cast<void>(world_->nccl().mem_free(data_));
  } catch (...) {  // NOLINT(bugprone-empty-catch): the device is gone, and its memory with it
  }
}

}  // namespace dynatrain

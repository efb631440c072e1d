#include "transport/nccl/message_memory.hpp"

#include "dynatrain/base/pause.hpp"

#include <chrono>
#include <string>
#include <utility>

namespace dynatrain {
namespace {

/// How long an abort may take to let go of memory before that is given up.
constexpr std::chrono::seconds kAbortTime{5};
/// All of a GPU's memory takes a tenth of a second.
constexpr std::chrono::seconds kZeroTime{30};

[[noreturn]] void throw_not_zeroed(std::int64_t size_bytes, int rank) {
  throw DeviceError(
      "transport: the device of rank " + std::to_string(rank) + " has not zeroed " +
      std::to_string(size_bytes) + " bytes of staging within " + std::to_string(kZeroTime.count()) +
      " s\n  what else runs on it may hang\n  nothing was sent; the memory is left to "
      "the device\n  see what runs there (nvidia-smi), and call again");
}

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
    if (!world_->device().zero(data_, size_bytes, deadline_in(kZeroTime))) {
      data_ = nullptr;  // it may be written still: never freed
      throw_not_zeroed(size_bytes, world_->rank());
    }
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
  if (data_ == nullptr) {
    return;
  }
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

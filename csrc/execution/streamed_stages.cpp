#include "execution/streamed_stages.hpp"

#include "dynatrain/base/error.hpp"

#include "execution/draining.hpp"
#include <array>
#include <vector>

namespace dynatrain {
namespace {

/// Stages between telling how far a rank is and waiting until all are.
constexpr std::size_t kStagesToHear = 2;
static_assert(kStagesUntilFreed == kNumSlots + static_cast<int>(kStagesToHear),
              "a plan frees a storage when the run has heard that it may");

}  // namespace

StreamedStages::StreamedStages(const RunInputs& inputs, const BufferIds& ids)
    : inputs_(inputs),
      streaming_(*inputs.streaming),
      ids_(ids),
      tensors_of_(streaming_.target.size_bytes.size()) {
  const std::size_t num_tensors = inputs.target.num_tensors();
  DYNATRAIN_CHECK(streaming_.target.of_tensor.size() == num_tensors &&
                      streaming_.target_offset_bytes.size() == num_tensors,
                  "execution: the storages to stream into are of another number of tensors");
  for (std::size_t i = 0; i < num_tensors; ++i) {
    if (const int storage = streaming_.target.of_tensor[i]; storage != Storages::kNone) {
      tensors_of_[static_cast<std::size_t>(storage)].emplace_back(static_cast<std::int64_t>(i));
    }
  }
}

void StreamedStages::before_stage(const RunCall& call, std::size_t k, AddressTable& addresses) {
  const StreamStage& stage = streaming_.plan.stages[k];
  tell(call, k < kNumSlots ? 0 : k - kNumSlots + 1);
  if (k >= kStagesToHear) {
    free_behind(call, k - kStagesToHear, stage.freed);
  }
  for (const int storage : stage.taken) {
    std::byte* const base = streaming_.memory.take(storage);
    for (const TensorId tensor : tensors_of_[static_cast<std::size_t>(storage)]) {
      addresses.set(ids_.target(tensor),
                    base + streaming_.target_offset_bytes[tensor.index()],
                    inputs_.target_memory.size_bytes[tensor.index()]);
    }
  }
}

void StreamedStages::end(const RunCall& call) {
  tell(call, streaming_.plan.stages.size());
  free_behind(call, told_.size() - 1, streaming_.plan.freed_last);
}

void StreamedStages::tell(const RunCall& call, std::size_t landed) {
  landed_.push_back(static_cast<int>(landed));
  told_.push_back(streaming_.watermark.tell(landed_.back(), call.deadline));
}

void StreamedStages::free_behind(const RunCall& call,
                                 std::size_t number,
                                 const std::vector<int>& storages) {
  const std::array told{told_[number]};
  wait_all(told, call.deadline + kAfterAbort);
  // Before the first is freed: who reads it after a failure may believe too little, never too much.
  call.control.freed_stages = landed_[number];
  for (const int storage : storages) {
    streaming_.memory.free(storage);
  }
}

}  // namespace dynatrain

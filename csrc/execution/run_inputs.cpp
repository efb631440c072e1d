#include "execution/run_inputs.hpp"

#include "dynatrain/base/error.hpp"
#include "dynatrain/base/log.hpp"

#include <algorithm>
#include <cstddef>
#include <string>

namespace dynatrain {
namespace {

bool share_memory(const TensorMemory& a, const TensorMemory& b, std::size_t tensor) {
  const std::byte* a_begin = a.base[tensor];
  const std::byte* b_begin = b.base[tensor];
  return a_begin != nullptr && b_begin != nullptr && a_begin < b_begin + b.size_bytes[tensor] &&
         b_begin < a_begin + a.size_bytes[tensor];
}

void check_adoption(const RunInputs& run, TensorId tensor) {
  if (!share_memory(run.source_memory, run.target_memory, tensor.index())) {
    return;
  }
  const bool is_adopted =
      run.source_memory.base[tensor.index()] == run.target_memory.base[tensor.index()] &&
      std::find(run.plan.adoptable.begin(), run.plan.adoptable.end(), tensor) !=
          run.plan.adoptable.end();
  if (!is_adopted) {
    throw InternalError("execution: source and target buffers of '" +
                        run.source.tensor(tensor).name + "' on rank " +
                        std::to_string(run.schedule.rank) +
                        " share memory, but its layout changes\n  nothing was moved; writing the "
                        "target would destroy the source\n  please report this as a bug of "
                        "dynatrain");
  }
}

void check_sizes(const RunInputs& run) {
  const std::size_t num_tensors = run.source.num_tensors();
  for (const TensorMemory* memory : {&run.source_memory, &run.target_memory}) {
    DYNATRAIN_CHECK(memory->base.size() == num_tensors && memory->size_bytes.size() == num_tensors,
                    "execution: a tensor memory has " + std::to_string(memory->base.size()) +
                        " entries for " + std::to_string(num_tensors) + " tensors");
  }
}

bool carries_sums(const Schedule& schedule) {
  return std::ranges::any_of(schedule.stages, [](const Stage& stage) {
    const auto has_sums = [](const StageMessage& m) { return m.sums_offset_bytes >= 0; };
    return std::ranges::any_of(stage.sends, has_sums) ||
           std::ranges::any_of(stage.receives, has_sums);
  });
}

}  // namespace

AddressTable patch_addresses(const RunInputs& run, const BufferIds& ids) {
  check_sizes(run);
  AddressTable addresses;
  for (std::size_t i = 0; i < run.source.num_tensors(); ++i) {
    const TensorId tensor(static_cast<std::int64_t>(i));
    check_adoption(run, tensor);
    if (run.source_memory.base[i] != nullptr) {
      addresses.set(
          BufferIds::source(tensor), run.source_memory.base[i], run.source_memory.size_bytes[i]);
    }
    if (run.target_memory.base[i] != nullptr) {
      addresses.set(ids.target(tensor), run.target_memory.base[i], run.target_memory.size_bytes[i]);
    }
  }
  return addresses;
}

std::int64_t skip_adopted(CopyBatch& local, const AddressTable& addresses) {
  std::int64_t skipped_bytes = 0;
  std::erase_if(local.copies, [&](const CopyDescriptor& copy) {
    const bool is_same = copy.copy.src_offset_elems == copy.copy.dst_offset_elems &&
                         copy.copy.src_strides == copy.copy.dst_strides &&
                         addresses.base(copy.src) == addresses.base(copy.dst);
    skipped_bytes += is_same ? num_elements(copy.copy.extents) * copy.elem_bytes : 0;
    return is_same;
  });
  return skipped_bytes;
}

bool compares_sums(const RunInputs& run) {
  return run.verify_sums && carries_sums(run.schedule);
}

void compare_sums(const RunInputs& run,
                  const PartCheck& check,
                  int stage,
                  std::uint64_t sent,
                  std::uint64_t received) {
  if (sent == received) {
    return;
  }
  throw TransportError("execution: '" + run.target.tensor(check.part->tensor).name +
                           "' arrived damaged\n  box " + check.part->box.to_string() +
                           ", elements " + std::to_string(check.part->begin_elem) + " to " +
                           std::to_string(check.part->end_elem) + ", from rank " +
                           std::to_string(check.peer) + ": the sender's sum is " +
                           std::to_string(sent) + ", the receiver's " + std::to_string(received) +
                           "\n  check memory and network of both hosts before trying again",
                       check.peer,
                       stage,
                       true);
}

std::int64_t prepare_batches(std::span<CopyBatch* const> batches,
                             Copier& copier,
                             const AddressTable& addresses) {
  const std::vector<const CopyBatch*> whole(batches.begin(), batches.end());
  const std::vector<std::shared_ptr<PreparedBatch>> prepared = copier.prepare(whole, addresses);
  std::int64_t taken_bytes = 0;
  for (std::size_t i = 0; i < batches.size(); ++i) {
    batches[i]->prepared = prepared[i];
    taken_bytes += prepared[i] == nullptr ? 0 : prepared[i]->size_bytes();
  }
  return taken_bytes;
}

void tell_landed(const RunInputs& run,
                 RunControl& control,
                 const StageProgram& program,
                 std::size_t k) {
  control.landed_bytes += program.received_bytes + program.local_bytes;
  control.landed_stages = static_cast<int>(k) + 1;
  log(LogLevel::kDebug,
      "execution",
      "rank " + std::to_string(run.schedule.rank) + ": stage " + std::to_string(k + 1) + " of " +
          std::to_string(run.schedule.stages.size()) + " landed; sent " +
          std::to_string(program.sent_bytes) + " bytes, received " +
          std::to_string(program.received_bytes) + ", kept " + std::to_string(program.local_bytes));
}

bool drain(std::span<const Token> tokens, Deadline deadline) noexcept {
  bool all_ended = true;
  for (const Token& token : tokens) {
    try {
      token.wait(deadline);
    } catch (...) {
      all_ended = all_ended && token.done();
    }
  }
  return all_ended;
}

}  // namespace dynatrain

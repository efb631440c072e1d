#include "execution/patching.hpp"

#include "dynatrain/base/error.hpp"

#include <algorithm>
#include <cstddef>
#include <memory>
#include <string>
#include <vector>

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
    const bool is_same = addresses.has(copy.dst) &&  // a streamed target has no memory yet
                         copy.copy.src_offset_elems == copy.copy.dst_offset_elems &&
                         copy.copy.src_strides == copy.copy.dst_strides &&
                         addresses.base(copy.src) == addresses.base(copy.dst);
    skipped_bytes += is_same ? num_elements(copy.copy.extents) * copy.elem_bytes : 0;
    return is_same;
  });
  return skipped_bytes;
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

}  // namespace dynatrain

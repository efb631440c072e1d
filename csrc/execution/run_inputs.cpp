#include "execution/run_inputs.hpp"

#include "dynatrain/base/error.hpp"

#include <algorithm>
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

std::vector<Note> exchange_notes(const Ports& ports,
                                 std::span<const std::pair<int, Note>> send_to,
                                 std::span<const int> receive_from,
                                 Deadline deadline) {
  std::vector<Note> out(send_to.size());
  std::vector<Note> in(receive_from.size());
  std::vector<WireMessage> sends;
  std::vector<WireMessage> receives;
  sends.reserve(send_to.size());
  receives.reserve(receive_from.size());
  for (std::size_t i = 0; i < receive_from.size(); ++i) {
    receives.push_back({.peer = receive_from[i],
                        .tag = ports.tags.next_receive(receive_from[i]),
                        .data = reinterpret_cast<std::byte*>(in[i].data()),
                        .size_bytes = sizeof(Note)});
  }
  for (std::size_t i = 0; i < send_to.size(); ++i) {
    out[i] = send_to[i].second;
    sends.push_back({.peer = send_to[i].first,
                     .tag = ports.tags.next_send(send_to[i].first),
                     .data = reinterpret_cast<std::byte*>(out[i].data()),
                     .size_bytes = sizeof(Note)});
  }
  std::vector<Token> tokens;
  tokens.push_back(ports.transport.submit_receives(receives, {}, deadline));
  tokens.push_back(ports.transport.submit_sends(sends, {}, deadline));
  try {
    // The transport names the peer at the deadline; this wait is a little longer.
    wait_all(tokens, deadline + std::chrono::milliseconds(200));
  } catch (const std::exception& error) {
    ports.transport.abort(error.what());
    if (!drain(tokens, deadline_in(kDrainTime))) {
      static_cast<void>(new auto(std::move(in)));  // given up: the transport may still write it
      static_cast<void>(new auto(std::move(out)));
    }
    throw;
  }
  return in;
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

#include "execution/run_inputs.hpp"

#include "dynatrain/base/error.hpp"
#include "dynatrain/base/log.hpp"

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstring>
#include <memory>
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

/// Notes on their way: in host memory, and where the transport's messages lie.
class NoteBoard {
 public:
  NoteBoard(const Ports& ports,
            std::span<const std::pair<int, Note>> send_to,
            std::size_t num_received)
      : state_(std::make_unique<State>()), num_sent_(send_to.size()), num_received_(num_received) {
    const auto num_notes = static_cast<std::int64_t>(num_sent_ + num_received_);
    const std::int64_t size_bytes = std::max<std::int64_t>(1, num_notes) * kNoteBytes;
    state_->host = ports.copier.allocate(size_bytes, Place::kHost);
    state_->wire = ports.copier.allocate(size_bytes, ports.transport.message_place());
    for (std::size_t i = 0; i < num_sent_; ++i) {
      std::memcpy(host(i), send_to[i].second.data(), sizeof(Note));
    }
    state_->addresses.set(kHostNotes, state_->host->data(), size_bytes);
    state_->addresses.set(kWireNotes, state_->wire->data(), size_bytes);
    const std::int64_t sent_bytes = static_cast<std::int64_t>(num_sent_) * kNoteBytes;
    state_->write.copies.push_back({.src = kHostNotes,
                                    .dst = kWireNotes,
                                    .copy = {.extents = {sent_bytes},
                                             .src_offset_elems = 0,
                                             .dst_offset_elems = 0,
                                             .src_strides = {1},
                                             .dst_strides = {1}}});
    if (num_received_ > 0) {
      state_->read.read_back.push_back({.src = wire(num_sent_),
                                        .host = host(num_sent_),
                                        .size_bytes = num_notes * kNoteBytes - sent_bytes});
    }
  }

  [[nodiscard]] WireMessage message(int peer, std::uint32_t tag, std::size_t note) const {
    return {.peer = peer, .tag = tag, .data = wire(note), .size_bytes = kNoteBytes};
  }
  [[nodiscard]] const CopyBatch& write() const { return state_->write; }
  [[nodiscard]] const CopyBatch& read() const { return state_->read; }
  [[nodiscard]] const AddressTable& addresses() const { return state_->addresses; }
  [[nodiscard]] std::vector<Note> received() const {
    std::vector<Note> notes(num_received_);
    for (std::size_t i = 0; i < num_received_; ++i) {
      std::memcpy(notes[i].data(), host(num_sent_ + i), sizeof(Note));
    }
    return notes;
  }
  /// Never frees the memory: somebody may still write it.
  void give_up() { static_cast<void>(state_.release()); }  // NOLINT(bugprone-unused-return-value)

 private:
  struct State {
    std::unique_ptr<CopierMemory> host;
    std::unique_ptr<CopierMemory> wire;
    AddressTable addresses;
    CopyBatch write;
    CopyBatch read;
  };
  static constexpr std::int64_t kNoteBytes = sizeof(Note);
  static constexpr BufferId kHostNotes{0};
  static constexpr BufferId kWireNotes{1};

  [[nodiscard]] std::byte* host(std::size_t note) const {
    return state_->host->data() + static_cast<std::int64_t>(note) * kNoteBytes;
  }
  [[nodiscard]] std::byte* wire(std::size_t note) const {
    return state_->wire->data() + static_cast<std::int64_t>(note) * kNoteBytes;
  }

  std::unique_ptr<State> state_;
  std::size_t num_sent_;
  std::size_t num_received_;
};

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
  NoteBoard board(ports, send_to, receive_from.size());
  std::vector<WireMessage> sends;
  std::vector<WireMessage> receives;
  for (std::size_t i = 0; i < receive_from.size(); ++i) {
    const std::uint32_t tag = ports.tags.next_receive(receive_from[i]);
    receives.push_back(board.message(receive_from[i], tag, send_to.size() + i));
  }
  for (std::size_t i = 0; i < send_to.size(); ++i) {
    const std::uint32_t tag = ports.tags.next_send(send_to[i].first);
    sends.push_back(board.message(send_to[i].first, tag, i));
  }
  const Token written = ports.copier.submit(board.write(), board.addresses(), {});
  const std::array after{written};
  const ExchangeTokens posted =
      ports.transport.exchange({.sends = sends, .receives = receives}, after, deadline);
  const std::array arrived{posted.received};
  const Token read = ports.copier.submit(board.read(), board.addresses(), arrived);
  const std::array tokens{written, posted.received, posted.sent, read};
  try {
    // The transport names the peer at the deadline; this wait is a little longer.
    wait_all(tokens, deadline + std::chrono::milliseconds(200));
  } catch (const std::exception& error) {
    ports.transport.abort(error.what());
    if (!drain(tokens, deadline_in(kDrainTime))) {
      board.give_up();
    }
    throw;
  }
  return board.received();
}

void tell_landed(const RunInputs& run, const StageProgram& program, std::size_t k) {
  run.control.landed_bytes += program.received_bytes + program.local_bytes;
  run.control.landed_stages = static_cast<int>(k) + 1;
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

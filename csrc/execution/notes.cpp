#include "execution/notes.hpp"

#include "dynatrain/base/checked.hpp"
#include "dynatrain/base/error.hpp"

#include "execution/draining.hpp"
#include <algorithm>
#include <array>
#include <chrono>
#include <cstring>
#include <exception>
#include <string>
#include <utility>

namespace dynatrain {
namespace {

constexpr BufferId kHostNotes{0};
constexpr BufferId kWireNotes{1};
constexpr std::int64_t kWordBytes = sizeof(std::uint64_t);

std::int64_t size_bytes_of(const Note& note) {
  return std::ssize(note.words) * kWordBytes;
}

std::int64_t size_bytes_of(std::span<const Note> notes) {
  std::int64_t size_bytes = 0;
  for (const Note& note : notes) {
    size_bytes += size_bytes_of(note);
  }
  return size_bytes;
}

std::string hex(std::uint64_t value) {
  std::string text(16, '0');
  for (std::size_t i = 0; i < text.size(); ++i) {
    text[text.size() - 1 - i] = "0123456789abcdef"[(value >> (4 * i)) & 15U];
  }
  return text;
}

/// The copies of one exchange between the two sides of the notes' memory: sent notes first.
struct NoteCopies {
  AddressTable addresses;
  CopyBatch write;
  CopyBatch read;

  NoteCopies(const NoteMemory& memory, std::int64_t sent_bytes, std::int64_t received_bytes) {
    addresses.set(kHostNotes, memory.host(), sent_bytes + received_bytes);
    addresses.set(kWireNotes, memory.wire(), sent_bytes + received_bytes);
    write.copies.push_back({.src = kHostNotes,
                            .dst = kWireNotes,
                            .copy = {.extents = {sent_bytes},
                                     .src_offset_elems = 0,
                                     .dst_offset_elems = 0,
                                     .src_strides = {1},
                                     .dst_strides = {1}}});
    if (received_bytes > 0) {
      read.read_back.push_back({.src = memory.wire() + sent_bytes,
                                .host = memory.host() + sent_bytes,
                                .size_bytes = received_bytes});
    }
  }
};

/// The messages of the notes, which lie one after another from `data` on.
template <class NextTag>
std::vector<WireMessage> messages_of(std::span<const Note> notes,
                                     std::byte* data,
                                     NextTag next_tag) {
  std::vector<WireMessage> messages;
  messages.reserve(notes.size());
  for (const Note& note : notes) {
    messages.push_back({.peer = note.peer,
                        .tag = next_tag(note.peer),
                        .data = data,
                        .size_bytes = size_bytes_of(note)});
    data += size_bytes_of(note);
  }
  return messages;
}

/// The operations of one exchange. However it ends, none of them touches the notes' memory any more
/// once this goes; where one might, the memory is given up.
class PendingNotes {
 public:
  PendingNotes(const Ports& ports, std::int64_t sent_bytes, std::int64_t received_bytes)
      : ports_(ports),
        copies_(std::make_unique<NoteCopies>(ports.notes, sent_bytes, received_bytes)) {}
  ~PendingNotes() {
    if (has_ended_) {
      return;
    }
    ports_.transport.abort("words for the other ranks did not arrive");
    if (!drain(tokens_, deadline_in(kDrainTime))) {
      ports_.notes.give_up();
      static_cast<void>(copies_.release());  // NOLINT(bugprone-unused-return-value)
    }
  }
  PendingNotes(const PendingNotes&) = delete;
  PendingNotes& operator=(const PendingNotes&) = delete;
  PendingNotes(PendingNotes&&) = delete;
  PendingNotes& operator=(PendingNotes&&) = delete;

  void post(const Exchange& step, Deadline deadline) {
    const Token& written = tokens_[0] = submit(copies_->write, {});
    ExchangeTokens posted = ports_.transport.exchange(step, std::span(&written, 1), deadline);
    tokens_[1] = std::move(posted.received);
    tokens_[2] = std::move(posted.sent);
    tokens_[3] = submit(copies_->read, std::span(&tokens_[1], 1));
  }
  /// Errors: the first message's.
  void wait(Deadline deadline) {
    // The transport names the peer at the deadline; this wait is a little longer.
    wait_all(tokens_, deadline + std::chrono::milliseconds(200));
    has_ended_ = true;
  }

 private:
  Token submit(const CopyBatch& batch, std::span<const Token> after) {
    return ports_.copier.submit(batch, copies_->addresses, after);
  }

  Ports ports_;
  std::unique_ptr<NoteCopies> copies_;
  std::array<Token, 4> tokens_{};  ///< written, received, sent, read
  bool has_ended_ = false;
};

}  // namespace

void NoteMemory::reserve(std::int64_t size_bytes, Copier& copier, Place place) {
  if (host_ != nullptr && size_bytes <= size_bytes_ && place == place_) {
    return;
  }
  size_bytes = std::max(size_bytes, std::max(size_bytes_, kWordBytes));
  host_ = copier.allocate(size_bytes, Place::kHost);
  wire_ = copier.allocate(size_bytes, place);
  size_bytes_ = size_bytes;
  place_ = place;
}

void NoteMemory::give_up() noexcept {
  static_cast<void>(host_.release());  // NOLINT(bugprone-unused-return-value)
  static_cast<void>(wire_.release());  // NOLINT(bugprone-unused-return-value)
}

void exchange_notes(const Ports& ports,
                    std::span<const Note> sends,
                    std::span<Note> receives,
                    Deadline deadline) {
  const std::int64_t sent_bytes = size_bytes_of(sends);
  const std::int64_t received_bytes = size_bytes_of(receives);
  ports.notes.reserve(sent_bytes + received_bytes, ports.copier, ports.transport.message_place());
  std::byte* host = ports.notes.host();
  for (const Note& note : sends) {
    std::memcpy(host, note.words.data(), static_cast<std::size_t>(size_bytes_of(note)));
    host += size_bytes_of(note);
  }
  const std::vector<WireMessage> incoming =
      messages_of(receives, ports.notes.wire() + sent_bytes, [&](int peer) {
        return ports.tags.next_receive(peer);
      });
  const std::vector<WireMessage> outgoing =
      messages_of(sends, ports.notes.wire(), [&](int peer) { return ports.tags.next_send(peer); });
  PendingNotes pending(ports, sent_bytes, received_bytes);
  try {
    pending.post({.sends = outgoing, .receives = incoming}, deadline);
    pending.wait(deadline);
  } catch (const std::exception& error) {
    ports.transport.abort(error.what());
    throw;
  }
  for (Note& note : receives) {
    std::memcpy(note.words.data(), host, static_cast<std::size_t>(size_bytes_of(note)));
    host += size_bytes_of(note);
  }
}

void throw_disagreement(int rank, int peer, std::uint64_t own, std::uint64_t theirs) {
  throw TransportError("execution: ranks " + std::to_string(rank) + " and " + std::to_string(peer) +
                           " have different lists of moves between them\n  hash on rank " +
                           std::to_string(rank) + ": " + hex(own) + ", on rank " +
                           std::to_string(peer) + ": " + hex(theirs) +
                           "\n  nothing was moved; the source state is intact\n  give all ranks "
                           "the same layouts, tensors and decision record",
                       peer,
                       -1,
                       false);
}

std::int64_t note_bytes(const Schedule& schedule, int num_ranks) {
  std::int64_t words = 2LL * num_ranks;
  for (const Stage& stage : schedule.stages) {
    words += num_parts(stage.sends) + num_parts(stage.receives);
  }
  return checked_mul(words, kWordBytes);
}

}  // namespace dynatrain

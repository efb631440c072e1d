#include "execution/notes.hpp"

#include "dynatrain/base/checked.hpp"

#include "execution/draining.hpp"
#include <algorithm>
#include <array>
#include <chrono>
#include <cstring>
#include <exception>
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
  auto copies = std::make_unique<NoteCopies>(ports.notes, sent_bytes, received_bytes);
  const std::vector<WireMessage> incoming =
      messages_of(receives, ports.notes.wire() + sent_bytes, [&](int peer) {
        return ports.tags.next_receive(peer);
      });
  const std::vector<WireMessage> outgoing =
      messages_of(sends, ports.notes.wire(), [&](int peer) { return ports.tags.next_send(peer); });
  const Token written = ports.copier.submit(copies->write, copies->addresses, {});
  const std::array after{written};
  const ExchangeTokens posted =
      ports.transport.exchange({.sends = outgoing, .receives = incoming}, after, deadline);
  const std::array arrived{posted.received};
  const Token read = ports.copier.submit(copies->read, copies->addresses, arrived);
  const std::array tokens{written, posted.received, posted.sent, read};
  try {
    // The transport names the peer at the deadline; this wait is a little longer.
    wait_all(tokens, deadline + std::chrono::milliseconds(200));
  } catch (const std::exception& error) {
    ports.transport.abort(error.what());
    if (!drain(tokens, deadline_in(kDrainTime))) {
      ports.notes.give_up();
      static_cast<void>(copies.release());  // NOLINT(bugprone-unused-return-value)
    }
    throw;
  }
  for (Note& note : receives) {
    std::memcpy(note.words.data(), host, static_cast<std::size_t>(size_bytes_of(note)));
    host += size_bytes_of(note);
  }
}

std::int64_t note_bytes(const Schedule& schedule, int num_ranks) {
  std::int64_t words = 2LL * num_ranks;
  for (const Stage& stage : schedule.stages) {
    words += num_parts(stage.sends) + num_parts(stage.receives);
  }
  return checked_mul(words, kWordBytes);
}

}  // namespace dynatrain

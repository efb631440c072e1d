#pragma once

#include "dynatrain/execution/copier.hpp"
#include "dynatrain/execution/transport.hpp"
#include "dynatrain/schedule/schedule.hpp"

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

namespace dynatrain {

/// Tags are counted per pair and direction, the same way on both ends, so that a tag is never used
/// twice while a transport lives.
class TagCounter {
 public:
  TagCounter(int num_ranks, std::uint32_t first_tag)
      : sends_(static_cast<std::size_t>(num_ranks), first_tag),
        receives_(static_cast<std::size_t>(num_ranks), first_tag) {}

  [[nodiscard]] std::uint32_t next_send(int peer) {
    return sends_.at(static_cast<std::size_t>(peer))++;
  }
  [[nodiscard]] std::uint32_t next_receive(int peer) {
    return receives_.at(static_cast<std::size_t>(peer))++;
  }

 private:
  std::vector<std::uint32_t> sends_;
  std::vector<std::uint32_t> receives_;
};

/// Memory that notes lie in on their way: on the host, and where the transport's messages lie. Kept
/// from one exchange to the next, as taking memory stops a device.
class NoteMemory {
 public:
  /// Makes room for notes of so many bytes, sent and received; does nothing when there is room.
  void reserve(std::int64_t size_bytes, Copier& copier, Place place);
  /// Never frees the memory: somebody may still write it. The next exchange takes new memory.
  void give_up() noexcept;

  [[nodiscard]] std::byte* host() const { return host_->data(); }
  [[nodiscard]] std::byte* wire() const { return wire_->data(); }

 private:
  std::unique_ptr<CopierMemory> host_;
  std::unique_ptr<CopierMemory> wire_;
  Place place_ = Place::kHost;
  std::int64_t size_bytes_ = 0;
};

/// The ports of an executor.
struct Ports {
  Transport& transport;
  Copier& copier;
  TagCounter& tags;
  NoteMemory& notes;
};

/// Words that a rank tells a peer, or is told by it.
struct Note {
  int peer = 0;
  std::vector<std::uint64_t> words;
};

/// Sends all of `sends`, and fills the words of each of `receives`, which come with their number.
/// Errors   the first message's; every message has ended then, as the transport is aborted.
void exchange_notes(const Ports& ports,
                    std::span<const Note> sends,
                    std::span<Note> receives,
                    Deadline deadline);

/// Throws the TransportError of two ranks that have other hashes of the moves between them.
[[noreturn]] void throw_disagreement(int rank, int peer, std::uint64_t own, std::uint64_t theirs);

/// Bytes of the largest exchange of a run: a hash and a sum of every part, with every peer.
[[nodiscard]] std::int64_t note_bytes(const Schedule& schedule, int num_ranks);

}  // namespace dynatrain

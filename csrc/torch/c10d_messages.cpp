#include "torch/c10d_messages.hpp"

#include "dynatrain/base/hash.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>

namespace dynatrain {
namespace {

constexpr unsigned kTagBits = 18;
constexpr std::uint32_t kTagMask = (1U << kTagBits) - 1U;
/// Two digests fewer than 12 bits hold, for empty messages; the largest wire tag stays free.
constexpr std::uint64_t kNumDigests = 4094;

std::string describe(const WireMessage& message, bool is_send) {
  return std::string(is_send ? "send" : "receive") + " of " + std::to_string(message.size_bytes) +
         " bytes (message " + std::to_string(message.tag) + ") " + (is_send ? "to" : "from") +
         " rank " + std::to_string(message.peer);
}

int empty_tag(std::uint32_t tag, std::uint64_t digest) {
  const auto high = static_cast<std::uint32_t>(digest) << (kTagBits + 1U);
  return static_cast<int>(high | ((tag & kTagMask) << 1U));
}

constexpr const char* kAfterwards =
    "\n  the transport has closed its connections; no source memory was written";

std::size_t inline_bytes(std::int64_t size_bytes) {
  return std::min(kInlineBytes, static_cast<std::size_t>(size_bytes));
}

}  // namespace

std::unique_ptr<std::byte[]> empty_head() {
  return std::make_unique_for_overwrite<std::byte[]>(kMaxHeadBytes);
}

std::unique_ptr<std::byte[]> make_head(const WireMessage& message) {
  std::unique_ptr<std::byte[]> head = empty_head();
  std::memcpy(head.get(), &message.size_bytes, sizeof(message.size_bytes));
  if (message.size_bytes > 0) {
    std::memcpy(
        head.get() + sizeof(message.size_bytes), message.data, inline_bytes(message.size_bytes));
  }
  return head;
}

std::size_t head_size_bytes(std::int64_t message_size_bytes) {
  return sizeof(std::int64_t) + inline_bytes(message_size_bytes);
}

std::int64_t size_in_head(const std::byte* head) {
  std::int64_t size_bytes = 0;
  std::memcpy(&size_bytes, head, sizeof(size_bytes));
  return size_bytes;
}

bool take_head(const std::byte* head, const WireMessage& message) {
  if (size_in_head(head) != message.size_bytes) {
    return false;
  }
  if (message.size_bytes > 0) {
    std::memcpy(message.data, head + sizeof(message.size_bytes), inline_bytes(message.size_bytes));
  }
  return true;
}

std::vector<std::span<std::byte>> pieces_after_head(const WireMessage& message) {
  std::vector<std::span<std::byte>> pieces;
  const auto size = static_cast<std::size_t>(message.size_bytes);
  const std::size_t piece = std::clamp(size / kMaxPieces, kMinPieceBytes, kMaxPieceBytes);
  for (std::size_t begin = inline_bytes(message.size_bytes); begin < size; begin += piece) {
    pieces.emplace_back(message.data + begin, std::min(piece, size - begin));
  }
  return pieces;
}

int head_tag(std::uint32_t tag) {
  return static_cast<int>((tag & kTagMask) << 1U);
}

int piece_tag(std::uint32_t tag, std::int64_t message_size_bytes) {
  const std::uint64_t digest = mix64(static_cast<std::uint64_t>(message_size_bytes)) % kNumDigests;
  const auto high = static_cast<std::uint32_t>(digest) << (kTagBits + 1U);
  return static_cast<int>(high | ((tag & kTagMask) << 1U) | 1U);
}

int end_tag(std::uint32_t tag) {
  return empty_tag(tag, kNumDigests);
}

int receipt_tag(std::uint32_t tag) {
  return empty_tag(tag, kNumDigests + 1);
}

bool says_consequence(std::string_view text) {
  return text.find("caused pair closure") != std::string_view::npos;
}

TransportError peer_error(const WireMessage& message, bool is_send, const std::string& text) {
  return {"transport: " + describe(message, is_send) + " failed\n  torch: " + text + "\n  rank " +
              std::to_string(message.peer) + " has ended or has given up" + kAfterwards +
              "\n  see the output of that rank; a later try needs a new group",
          message.peer,
          -1,
          true};
}

TransportError deadline_error(const WireMessage& message, bool is_send, double waited_seconds) {
  const std::int64_t tenths = std::llround(waited_seconds * 10.0);
  const std::string seconds = std::to_string(tenths / 10) + "." + std::to_string(tenths % 10);
  return {"transport: " + describe(message, is_send) + " was not done within " + seconds +
              " s\n  rank " + std::to_string(message.peer) +
              " has not posted its side, or the network is too slow" + kAfterwards +
              "\n  see whether that rank takes part; a later try needs a new group",
          message.peer,
          -1,
          true};
}

TransportError size_error(const WireMessage& message, std::int64_t sent_size_bytes) {
  return {"transport: " + describe(message, false) + " met a message of " +
              std::to_string(sent_size_bytes) + " bytes\n  both ends must expect the same size" +
              kAfterwards + "\n  the two ranks do not follow the same plan; please report this",
          message.peer,
          -1,
          false};
}

TransportError no_such_peer_error(const WireMessage& message, int size) {
  return {"transport: no peer is rank " + std::to_string(message.peer) + "\n  the group has " +
              std::to_string(size) + " ranks, and none sends to itself" + kAfterwards,
          message.peer,
          -1,
          false};
}

TransportError closed_error(const WireMessage& message) {
  return {"transport: nothing can go to or come from rank " + std::to_string(message.peer) +
              "\n  an earlier failure has closed the transport\n  make a new group",
          message.peer,
          -1,
          true};
}

}  // namespace dynatrain

#pragma once

#include "dynatrain/base/error.hpp"
#include "dynatrain/execution/transport.hpp"

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace dynatrain {

/// How a message of the Transport port is put on the wires of c10d; see docs/design/torch.md,
/// "Messages". A head is 8 bytes of size and up to kInlineBytes of the message; what is longer
/// follows in pieces.
inline constexpr std::size_t kInlineBytes = 4096;
inline constexpr std::size_t kMaxHeadBytes = sizeof(std::int64_t) + kInlineBytes;
/// Gloo moves both directions of a pair, and many pairs, better in pieces of a few MiB than in one
/// (measured: docs/design/torch.md, "Speed"); more than kMaxPieces cost more than they bring.
inline constexpr std::size_t kMinPieceBytes = std::size_t{4} << 20U;
inline constexpr std::size_t kMaxPieces = 64;
/// Small enough for backends that count bytes in 32 bits.
inline constexpr std::size_t kMaxPieceBytes = std::size_t{1} << 30U;

[[nodiscard]] std::unique_ptr<std::byte[]> make_head(const WireMessage& message);
[[nodiscard]] std::unique_ptr<std::byte[]> empty_head();
[[nodiscard]] std::size_t head_size_bytes(std::int64_t message_size_bytes);
[[nodiscard]] std::int64_t size_in_head(const std::byte* head);
/// Copies what the head carries into the message; false, and nothing copied, when the sender's size
/// is another one.
[[nodiscard]] bool take_head(const std::byte* head, const WireMessage& message);
[[nodiscard]] std::vector<std::span<std::byte>> pieces_after_head(const WireMessage& message);

/// Tags on the wire have 31 bits: heads even, pieces odd. A piece's tag holds a digest of the
/// message's size, so that pieces of unequal messages do not meet.
[[nodiscard]] int head_tag(std::uint32_t tag);
[[nodiscard]] int piece_tag(std::uint32_t tag, std::int64_t message_size_bytes);
/// Of two empty messages: the sender's behind the last piece, and the receiver's in answer to it.
/// Even as of a head, with digests that no size has.
[[nodiscard]] int end_tag(std::uint32_t tag);
[[nodiscard]] int receipt_tag(std::uint32_t tag);

/// True for what Gloo says to operations that end because another one timed out.
[[nodiscard]] bool says_consequence(std::string_view text);

[[nodiscard]] TransportError peer_error(const WireMessage& message,
                                        bool is_send,
                                        const std::string& text);
[[nodiscard]] TransportError deadline_error(const WireMessage& message,
                                            bool is_send,
                                            double waited_seconds);
[[nodiscard]] TransportError size_error(const WireMessage& message, std::int64_t sent_size_bytes);
[[nodiscard]] TransportError no_such_peer_error(const WireMessage& message, int size);
[[nodiscard]] TransportError closed_error(const WireMessage& message);

}  // namespace dynatrain

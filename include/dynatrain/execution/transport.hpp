#pragma once

#include "dynatrain/base/strong_id.hpp"
#include "dynatrain/base/token.hpp"
#include "dynatrain/execution/copier.hpp"

#include <cstddef>
#include <cstdint>
#include <exception>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace dynatrain {

/// Bytes between this rank and a peer. A send meets the receive of the same tag between the same
/// two ranks; sizes must agree. A tag is used once per direction and pair while a transport lives.
struct WireMessage {
  int peer = 0;
  std::uint32_t tag = 0;
  std::byte* data = nullptr;  ///< read by sends, written by receives
  std::int64_t size_bytes = 0;
};

/// Memory of a rank that its peers may read.
struct ExposedBuffer {
  BufferId buffer;  ///< under which peers ask for it
  const std::byte* base = nullptr;
  std::int64_t size_bytes = 0;
};

/// Buffers that peers cannot read where they lie.
struct Unreadable {
  std::vector<BufferId> buffers;  ///< ascending
  std::string reason;             ///< of the first that was met; empty where there is none
};

/// The optional one-sided part of a transport: the receiver reads where the data lies.
///
/// Ranks publish in step: the n-th publish() of a rank is what its peers map after their own n-th.
/// A rank that exposes nothing publishes nothing, but it does publish.
/// Threads  one caller at a time; Transport::abort() ends a map() that waits.
class OneSided {
 public:
  virtual ~OneSided() = default;
  /// Whether this rank and `peer` may read each other's memory; both are told the same.
  [[nodiscard]] virtual bool reaches(int peer) const = 0;
  /// Lets the peers that it reaches read `buffers` until withdraw(), but for those that cannot be
  /// exported, which are returned. What lies there is final once the owner tells them so, which is
  /// not this call. Never waits for a peer.
  /// Errors  TransportError when nobody could be told.
  virtual Unreadable publish(std::span<const ExposedBuffer> buffers) = 0;
  /// Where this process reads what `peer` published as `buffer`, valid until release() or
  /// until the peer's next publication is mapped; null where the peer could not export it. The peer
  /// must not withdraw before this rank has acknowledged. Blocks until the peer has published.
  /// Errors  DeviceError when the memory cannot be reached from here: messages still can.
  ///         TransportError when the peer is gone, has no such buffer, or the deadline passes.
  [[nodiscard]] virtual SourceAddress map(int peer, BufferId buffer, Deadline deadline) = 0;
  /// This rank reads no mapped address any more; before it acknowledges.
  virtual void release() {}
  /// No peer reads this rank's memory any more: it may be freed.
  virtual void withdraw() = 0;
};

/// Everything that one rank sends and receives in one step, for example in one stage.
struct Exchange {
  std::span<const WireMessage> sends;
  std::span<const WireMessage> receives;
};

struct ExchangeTokens {
  Token sent;
  Token received;
};

/// Port: moves messages between ranks. Implemented in room 6 and, for c10d, in csrc/torch.
class Transport {
 public:
  virtual ~Transport() = default;
  [[nodiscard]] virtual int rank() const = 0;
  [[nodiscard]] virtual int size() const = 0;
  /// Where the memory of all its messages lies.
  [[nodiscard]] virtual Place message_place() const { return Place::kHost; }

  /// Memory at message_place() in which the transport sends and receives faster than in other
  /// memory, for messages that are packed; null, the default, where the copier's is as good. Any
  /// memory of that place stays good for messages. Slow, not for the middle of a run.
  /// Ownership  the caller's; it may outlive the transport, and goes when no operation uses it.
  /// Errors     DeviceError when such memory was asked for and cannot be had; TransportError after
  ///            a failure of the transport.
  [[nodiscard]] virtual std::unique_ptr<CopierMemory> allocate_messages(
      std::int64_t /*size_bytes*/) {
    return nullptr;
  }

  /// Posts all messages, none waiting for another, once all of `after` are done. A host transport
  /// may block here for `after`; it never blocks here for a peer.
  /// Ownership  message memory belongs to the transport until the token is done.
  /// Errors     through the token: TransportError with the peer (wrong size, peer gone, abort).
  virtual Token submit_sends(std::span<const WireMessage> messages,
                             std::span<const Token> after,
                             Deadline deadline) = 0;
  virtual Token submit_receives(std::span<const WireMessage> messages,
                                std::span<const Token> after,
                                Deadline deadline) = 0;

  /// Posts the sends and the receives of one step together; the sends, at least, come after
  /// `after`.
  ///
  /// Submissions of their own are enough for transports that match messages by tag whenever they
  /// are posted, which is the default. A transport that runs its operations in order (NCCL's, on a
  /// stream) needs both at once, and then the peers' exchanges meet in the order of the calls: a
  /// message belongs to the same exchange of the same pair on both ends.
  /// Errors  through the tokens; what is thrown, is thrown before anything was posted: nobody could
  ///         wait for its end.
  virtual ExchangeTokens exchange(const Exchange& step,
                                  std::span<const Token> after,
                                  Deadline deadline) {
    Token received = submit_receives(step.receives, {}, deadline);
    try {
      return {.sent = submit_sends(step.sends, after, deadline), .received = received};
    } catch (...) {
      abort("the sends of a step could not be posted");  // its receives end, and so do the peers'
      auto failed = std::make_shared<HostCompletion>();
      failed->fail(std::current_exception());
      return {.sent = Token(std::move(failed)), .received = std::move(received)};
    }
  }

  /// Ends every pending and later operation with a TransportError that says `reason`. Idempotent,
  /// any thread, with no memory left too. The transport is of no further use.
  virtual void abort(std::string_view reason) noexcept = 0;

  /// The one-sided part, or null. The default has none.
  [[nodiscard]] virtual OneSided* one_sided() noexcept { return nullptr; }
};

}  // namespace dynatrain

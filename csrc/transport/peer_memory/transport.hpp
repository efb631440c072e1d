#pragma once

#include "dynatrain/transport/peer_memory.hpp"
#include "dynatrain/transport/store.hpp"

#include "transport/peer_memory/exporter.hpp"
#include "transport/peer_memory/mappings.hpp"
#include "transport/peer_memory/peer_wait.hpp"
#include "transport/peer_memory/probe.hpp"
#include <algorithm>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace dynatrain {

/// One rank's port: messages as the other transport has them, and where memory of the machine's
/// ranks lies.
class PeerMemoryTransport final : public Transport, public OneSided {
 public:
  /// `ranks`, ascending, are those of this machine; `lifelines` watches them; `api` is null where
  /// there is no one-sided part. `verdict` is the probe's.
  PeerMemoryTransport(Transport& messages,
                      std::shared_ptr<Store> store,
                      std::vector<int> ranks,
                      std::shared_ptr<IpcApi> api,
                      std::unique_ptr<Lifelines> lifelines,
                      PeerMemoryReport verdict = {});

  [[nodiscard]] int rank() const override { return messages_.rank(); }
  [[nodiscard]] int size() const override { return messages_.size(); }
  [[nodiscard]] Place message_place() const override { return messages_.message_place(); }
  [[nodiscard]] std::unique_ptr<CopierMemory> allocate_messages(std::int64_t size_bytes) override {
    return messages_.allocate_messages(size_bytes);
  }
  Token submit_sends(std::span<const WireMessage> messages,
                     std::span<const Token> after,
                     Deadline deadline) override {
    return messages_.submit_sends(messages, after, deadline);
  }
  Token submit_receives(std::span<const WireMessage> messages,
                        std::span<const Token> after,
                        Deadline deadline) override {
    return messages_.submit_receives(messages, after, deadline);
  }
  ExchangeTokens exchange(const Exchange& step,
                          std::span<const Token> after,
                          Deadline deadline) override {
    return messages_.exchange(step, after, deadline);
  }
  void abort(std::string_view reason) noexcept override;
  [[nodiscard]] OneSided* one_sided() noexcept override {
    return exporter_ != nullptr ? this : nullptr;
  }

  [[nodiscard]] bool reaches(int peer) const override {
    return std::ranges::binary_search(ranks_, peer);
  }
  Unreadable publish(std::span<const ExposedBuffer> buffers) override;
  [[nodiscard]] SourceAddress map(int peer, BufferId buffer, Deadline deadline) override;
  void release() override;
  void withdraw() override;

 private:
  Transport& messages_;
  std::shared_ptr<Store> store_;
  std::vector<int> ranks_;
  AbortFlag aborted_;
  std::unique_ptr<Lifelines> lifelines_;
  std::unique_ptr<Exporter> exporter_;  ///< null where there is no one-sided part
  std::unique_ptr<Mappings> mappings_;
  std::int64_t num_published_ = 0;
};

/// The probe, then a transport, over this `probe.api`. Collective.
[[nodiscard]] PeerMemoryConnection connect_peer_memory(Transport& messages,
                                                       std::shared_ptr<Store> store,
                                                       const IpcProbe& probe,
                                                       Deadline deadline);

}  // namespace dynatrain

#include "transport/peer_memory/transport.hpp"

#include "dynatrain/base/error.hpp"

#include "transport/peer_memory/peer_wait.hpp"
#include <algorithm>
#include <set>
#include <utility>

namespace dynatrain {
namespace {

std::string key_of(int rank, std::int64_t number) {
  return "memory/" + std::to_string(rank) + "/" + std::to_string(number);
}

Unreadable left_out(std::span<const ExposedBuffer> buffers, const IpcPublication& publication) {
  Unreadable found{.buffers = {}, .reason = publication.refusal};
  if (publication.refusal.empty()) {
    return found;
  }
  std::set<BufferId> published;
  for (const PublishedBuffer& buffer : publication.buffers) {
    published.insert(buffer.buffer);
  }
  for (const ExposedBuffer& buffer : buffers) {
    if (!published.contains(buffer.buffer)) {
      found.buffers.push_back(buffer.buffer);
    }
  }
  std::ranges::sort(found.buffers);
  return found;
}

}  // namespace

PeerMemoryTransport::PeerMemoryTransport(Transport& messages,
                                         std::shared_ptr<Store> store,
                                         std::vector<int> ranks,
                                         std::shared_ptr<IpcApi> api,
                                         std::unique_ptr<Lifelines> lifelines,
                                         PeerMemoryReport verdict)
    : messages_(messages),
      store_(std::move(store)),
      ranks_(std::move(ranks)),
      lifelines_(std::move(lifelines)) {
  if (api != nullptr) {
    exporter_ = std::make_unique<Exporter>(api, std::move(verdict));
    mappings_ = std::make_unique<Mappings>(std::move(api));
  }
}

void PeerMemoryTransport::abort(std::string_view reason) noexcept {
  aborted_.raise(reason);
  lifelines_->let_go();
  messages_.abort(reason);
}

Unreadable PeerMemoryTransport::publish(std::span<const ExposedBuffer> buffers) {
  // Counted first: the peers count this publication whether it comes to be or not.
  ++num_published_;
  aborted_.check();
  const IpcPublication publication = exporter_->make(buffers);
  store_->set(key_of(rank(), num_published_), encode(publication));
  return left_out(buffers, publication);
}

SourceAddress PeerMemoryTransport::map(int peer, BufferId buffer, Deadline deadline) {
  aborted_.check();
  const PeerWait wait{.deadline = deadline, .aborted = aborted_, .lifelines = lifelines_.get()};
  if (!mappings_->has_met(peer, num_published_)) {
    const std::string words = wait_for_word(*store_, key_of(peer, num_published_), peer, wait);
    mappings_->meet(peer, num_published_, decode_publication(words, peer));
  }
  return mappings_->map(peer, buffer, wait);
}

void PeerMemoryTransport::release() {
  mappings_->close_all();
}

void PeerMemoryTransport::withdraw() {
  exporter_->close();
}

PeerMemoryConnection connect_peer_memory(Transport& messages,
                                         std::shared_ptr<Store> store,
                                         const IpcProbe& probe,
                                         Deadline deadline) {
  PeerMemoryConnection connection;
  auto lifelines = std::make_unique<Lifelines>();
  connection.report = run_probe(probe, *lifelines, *store, deadline);
  const bool works = connection.report.problem.empty();
  connection.transport = std::make_unique<PeerMemoryTransport>(messages,
                                                               std::move(store),
                                                               probe.ranks,
                                                               works ? probe.api : nullptr,
                                                               std::move(lifelines),
                                                               connection.report);
  return connection;
}

}  // namespace dynatrain

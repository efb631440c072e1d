#include "transport/peer_memory/mappings.hpp"

#include "dynatrain/base/error.hpp"
#include "dynatrain/base/log.hpp"

#include "base/other_process.hpp"
#include <algorithm>
#include <exception>
#include <string>
#include <vector>

namespace dynatrain {

bool Mappings::has_met(int peer, std::int64_t number) const {
  const auto found = peers_.find(peer);
  return found != peers_.end() && found->second.number == number;
}

void Mappings::meet(int peer, std::int64_t number, IpcPublication publication) {
  Peer& known = peers_[peer];
  close_all(known);
  known.number = number;
  known.publication = std::move(publication);
  std::ranges::stable_sort(known.publication.buffers, {}, &PublishedBuffer::buffer);
}

SourceAddress Mappings::map(int peer, BufferId buffer, const PeerWait& wait) {
  Peer& known = peers_.at(peer);
  const IpcPublication& publication = known.publication;
  const auto published =
      std::ranges::lower_bound(publication.buffers, buffer, {}, &PublishedBuffer::buffer);
  if (published == publication.buffers.end() || published->buffer != buffer) {
    if (!publication.refusal.empty()) {
      return {};
    }
    throw TransportError("transport: rank " + std::to_string(peer) + " did not publish buffer " +
                             std::to_string(buffer.value) + "\n  it published " +
                             std::to_string(publication.buffers.size()) +
                             " others; nothing was read\n  give all ranks the same plan",
                         peer,
                         -1,
                         false);
  }
  // The place comes first: what is open has one, and is closed.
  const auto [opened, is_new] = known.opened.try_emplace(published->range);
  if (is_new) {
    try {
      opened->second = open(peer, publication.ranges[published->range], wait);
    } catch (...) {
      known.opened.erase(opened);
      throw;
    }
  }
  SourceAddress at = opened->second.at;
  at.base += published->offset_bytes;
  if (at.process != 0) {
    at.rank = peer;
    check_readable({.number = at.process, .rank = peer}, at.base, published->size_bytes);
  }
  return at;
}

Mappings::Opened Mappings::open(int peer, const PublishedRange& range, const PeerWait& wait) {
  if (range.kind == IpcKind::kHandle) {
    return {.kind = range.kind,
            .at = api_->open_handle(range.pieces.front().handle),
            .size_bytes = range.pieces.front().size_bytes};
  }
  Opened opened{.kind = range.kind, .at = {}, .size_bytes = 0};
  std::vector<std::int64_t> sizes_bytes;
  for (const PublishedPiece& piece : range.pieces) {
    sizes_bytes.push_back(piece.size_bytes);
    opened.size_bytes += piece.size_bytes;
  }
  FileFetcher files(peers_.at(peer).publication.file_server, peer, wait);
  opened.at.base = api_->map_files(sizes_bytes, [&](std::size_t piece) {
    return files.fetch(range.pieces[piece].file).release();
  });
  return opened;
}

void Mappings::close(const Opened& opened) noexcept {
  try {
    if (opened.kind == IpcKind::kHandle) {
      api_->close_handle(opened.at);
    } else {
      api_->unmap_files(opened.at.base, opened.size_bytes);
    }
  } catch (const std::exception& error) {
    log(LogLevel::kWarning, "transport", error.what());
  }
}

void Mappings::close_all(Peer& peer) noexcept {
  for (const auto& [range, opened] : peer.opened) {
    close(opened);
  }
  peer.opened.clear();
}

void Mappings::close_all() noexcept {
  for (auto& [rank, peer] : peers_) {
    close_all(peer);
  }
}

}  // namespace dynatrain

#include "transport/cuda_ipc/mappings.hpp"

#include "dynatrain/base/error.hpp"
#include "dynatrain/base/log.hpp"

#include "transport/cuda_ipc/words.hpp"
#include <algorithm>
#include <exception>
#include <set>
#include <vector>

namespace dynatrain {
namespace {

/// An allocation that was freed and made again at the same place has another id, and another
/// handle. Without ids nothing but the number of the publication tells them apart.
std::string key_of(const PublishedRange& range, std::int64_t number) {
  WordWriter key;
  key.number(range.base);
  for (const PublishedPiece& piece : range.pieces) {
    key.text(piece.id);
    key.number(piece.id.empty() ? static_cast<std::uint64_t>(number) : 0);
    key.number(static_cast<std::uint64_t>(piece.size_bytes));
    key.text(piece.handle);
  }
  return key.take();
}

}  // namespace

bool Mappings::has_met(int peer, std::int64_t number) const {
  const auto found = peers_.find(peer);
  return found != peers_.end() && found->second.number == number;
}

void Mappings::meet(int peer, std::int64_t number, IpcPublication publication) {
  Peer& known = peers_[peer];
  known.number = number;
  known.publication = std::move(publication);
  std::set<std::string> wanted;
  for (const PublishedRange& range : known.publication.ranges) {
    wanted.insert(key_of(range, number));
  }
  std::erase_if(known.opened, [&](const auto& entry) {
    if (wanted.contains(entry.first)) {
      return false;
    }
    close(entry.second);
    return true;
  });
}

const std::byte* Mappings::map(int peer, BufferId buffer, const PeerWait& wait) {
  Peer& known = peers_.at(peer);
  const IpcPublication& publication = known.publication;
  if (!publication.refusal.empty()) {
    throw DeviceError("transport: rank " + std::to_string(peer) +
                      " cannot let others read its memory: " + publication.refusal);
  }
  const auto published = std::ranges::find(publication.buffers, buffer, &PublishedBuffer::buffer);
  if (published == publication.buffers.end()) {
    throw TransportError("transport: rank " + std::to_string(peer) + " did not publish buffer " +
                             std::to_string(buffer.value) + "\n  it published " +
                             std::to_string(publication.buffers.size()) +
                             " others; nothing was read\n  give all ranks the same plan",
                         peer,
                         -1,
                         false);
  }
  const PublishedRange& range = publication.ranges[published->range];
  const std::string key = key_of(range, known.number);
  auto opened = known.opened.find(key);
  if (opened == known.opened.end()) {
    opened = known.opened.emplace(key, open(peer, range, wait)).first;
  }
  return opened->second.base + published->offset_bytes;
}

Mappings::Opened Mappings::open(int peer, const PublishedRange& range, const PeerWait& wait) {
  if (range.kind == IpcKind::kHandle) {
    return {.kind = range.kind,
            .base = api_->open_handle(range.pieces.front().handle),
            .size_bytes = range.pieces.front().size_bytes};
  }
  Opened opened{.kind = range.kind, .base = nullptr, .size_bytes = 0};
  std::vector<std::int64_t> sizes_bytes;
  for (const PublishedPiece& piece : range.pieces) {
    sizes_bytes.push_back(piece.size_bytes);
    opened.size_bytes += piece.size_bytes;
  }
  FileFetcher files(peers_.at(peer).publication.file_server, peer, wait);
  opened.base = api_->map_files(sizes_bytes, [&](std::size_t piece) {
    return files.fetch(range.pieces[piece].file).release();
  });
  return opened;
}

void Mappings::close(const Opened& opened) noexcept {
  try {
    if (opened.kind == IpcKind::kHandle) {
      api_->close_handle(opened.base);
    } else {
      api_->unmap_files(opened.base, opened.size_bytes);
    }
  } catch (const std::exception& error) {
    log(LogLevel::kWarning, "transport", error.what());
  }
}

void Mappings::close_all() noexcept {
  for (auto& [rank, peer] : peers_) {
    for (const auto& [key, opened] : peer.opened) {
      close(opened);
    }
    peer.opened.clear();
  }
}

}  // namespace dynatrain

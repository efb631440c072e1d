#include "transport/peer_memory/exporter.hpp"

#include "dynatrain/base/error.hpp"

#include <algorithm>
#include <bit>
#include <iterator>
#include <string>

namespace dynatrain {
namespace {

std::uint64_t address_of(const std::byte* data) {
  return std::bit_cast<std::uint64_t>(data);
}

/// `ranges` ascend; one begins at or before the buffer, as every buffer has its pieces among them.
PublishedBuffer place(const ExposedBuffer& buffer, const std::vector<PublishedRange>& ranges) {
  const auto after =
      std::ranges::upper_bound(ranges, address_of(buffer.base), {}, &PublishedRange::base);
  const auto range = std::prev(after);
  return {.buffer = buffer.buffer,
          .range = static_cast<std::size_t>(range - ranges.begin()),
          .offset_bytes = static_cast<std::int64_t>(address_of(buffer.base) - range->base),
          .size_bytes = buffer.size_bytes};
}

/// The first counts: others mostly say the same.
void note_refusal(IpcPublication& publication, const DeviceError& error) {
  if (publication.refusal.empty()) {
    publication.refusal = error.what();
  }
}

}  // namespace

IpcPublication Exporter::make(std::span<const ExposedBuffer> buffers) {
  close();
  IpcPublication publication;
  Pieces pieces;
  std::vector<ExposedBuffer> exported;
  for (const ExposedBuffer& buffer : buffers) {
    try {
      for (const IpcPiece& piece : pieces_of(buffer, pieces)) {
        pieces.insert({piece.base, piece});
      }
      exported.push_back(buffer);
    } catch (const DeviceError& error) {
      note_refusal(publication, error);
    }
  }
  try {
    publication.ranges = join(pieces);
    for (const ExposedBuffer& buffer : exported) {
      publication.buffers.push_back(place(buffer, publication.ranges));
    }
    publication.file_server = files_ != nullptr ? files_->name() : "";
  } catch (const DeviceError& error) {
    close();
    note_refusal(publication, error);
    publication.ranges.clear();
  }
  return publication;
}

std::vector<IpcPiece> Exporter::pieces_of(const ExposedBuffer& buffer, const Pieces& known) {
  std::vector<IpcPiece> pieces;
  const std::byte* const end = buffer.base + buffer.size_bytes;
  const std::byte* at = buffer.base;
  do {
    const auto after = known.upper_bound(at);
    const bool is_known = after != known.begin() &&
                          std::prev(after)->second.base + std::prev(after)->second.size_bytes > at;
    const IpcPiece piece =
        is_known ? std::prev(after)->second : api_->piece_at(at, buffer.size_bytes);
    check_works(piece.kind);
    pieces.push_back(piece);
    at = piece.base + piece.size_bytes;
    if (at < end && piece.kind == IpcKind::kHandle) {
      throw DeviceError("transport: buffer " + std::to_string(buffer.buffer.value) + " of " +
                        std::to_string(buffer.size_bytes) +
                        " bytes reaches past its allocation\n  expected its last byte within " +
                        std::to_string(piece.size_bytes) + " bytes, it begins at byte " +
                        std::to_string(buffer.base - piece.base) +
                        "\n  it was not published; no state has changed\n  describe tensors by the "
                        "memory that they lie in");
    }
  } while (at < end);
  return pieces;
}

void Exporter::check_works(IpcKind kind) const {
  const std::string& problem =
      kind == IpcKind::kHandle ? verdict_.handle_problem : verdict_.file_problem;
  if (!problem.empty()) {
    throw DeviceError(problem);
  }
}

PublishedPiece Exporter::publish(const IpcPiece& piece) {
  PublishedPiece published{.size_bytes = piece.size_bytes, .handle = {}};
  if (piece.kind == IpcKind::kHandle) {
    published.handle = api_->export_handle(piece);
  } else {
    if (files_ == nullptr) {
      files_ = std::make_unique<FileServer>();
    }
    published.file = files_->offer([api = api_, piece] { return api->export_file(piece); });
  }
  return published;
}

std::vector<PublishedRange> Exporter::join(const Pieces& pieces) {
  std::vector<PublishedRange> ranges;
  const std::byte* end = nullptr;
  for (const auto& [base, piece] : pieces) {
    const bool follows = !ranges.empty() && base == end && piece.kind == IpcKind::kFile &&
                         ranges.back().kind == IpcKind::kFile;
    if (!follows) {
      ranges.push_back({.kind = piece.kind, .base = address_of(base), .pieces = {}});
    }
    ranges.back().pieces.push_back(publish(piece));
    end = base + piece.size_bytes;
  }
  return ranges;
}

void Exporter::close() noexcept {
  if (files_ != nullptr) {
    files_->withdraw_all();
  }
}

}  // namespace dynatrain

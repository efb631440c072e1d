#include "transport/peer_memory/publication.hpp"

#include "transport/peer_memory/words.hpp"
#include <cstdint>
#include <limits>
#include <utility>

namespace dynatrain {
namespace {

constexpr std::uint64_t kFormat = 0x6364'6970'6303;  // and its version

void write_range(WordWriter& out, const PublishedRange& range) {
  out.number(static_cast<std::uint64_t>(range.kind));
  out.number(range.base);
  out.number(range.pieces.size());
  for (const PublishedPiece& piece : range.pieces) {
    out.number(static_cast<std::uint64_t>(piece.size_bytes));
    out.text(piece.handle);
    out.number(piece.file);
  }
}

PublishedRange read_range(WordReader& in) {
  PublishedRange range;
  const std::uint64_t kind = in.number();
  range.kind = kind == 0 ? IpcKind::kHandle : IpcKind::kFile;
  range.base = in.number();
  std::int64_t room = std::numeric_limits<std::int64_t>::max();
  for (std::uint64_t left = in.number(); left > 0; --left) {
    PublishedPiece piece;
    piece.size_bytes = static_cast<std::int64_t>(in.number());
    piece.handle = in.text();
    piece.file = in.number();
    if (piece.size_bytes <= 0 || piece.size_bytes > room) {
      in.refuse();
    }
    room -= piece.size_bytes;
    range.pieces.push_back(std::move(piece));
  }
  const std::size_t most_pieces = kind == 0 ? 1 : range.pieces.size();
  if (kind > 1 || range.pieces.empty() || range.pieces.size() > most_pieces) {
    in.refuse();
  }
  return range;
}

std::int64_t size_of(const PublishedRange& range) {
  std::int64_t size_bytes = 0;
  for (const PublishedPiece& piece : range.pieces) {
    size_bytes += piece.size_bytes;
  }
  return size_bytes;
}

PublishedBuffer read_buffer(WordReader& in, const std::vector<std::int64_t>& range_sizes_bytes) {
  PublishedBuffer buffer;
  const std::uint64_t id = in.number();
  if (!std::in_range<std::int32_t>(id)) {
    in.refuse();  // it would be cut to that of another buffer
  }
  buffer.buffer = BufferId(static_cast<std::int64_t>(id));
  buffer.range = in.number();
  buffer.offset_bytes = static_cast<std::int64_t>(in.number());
  buffer.size_bytes = static_cast<std::int64_t>(in.number());
  if (buffer.range >= range_sizes_bytes.size() || buffer.offset_bytes < 0 ||
      buffer.size_bytes < 0 ||
      buffer.offset_bytes > range_sizes_bytes[buffer.range] - buffer.size_bytes) {
    in.refuse();
  }
  return buffer;
}

}  // namespace

std::string encode(const IpcPublication& publication) {
  WordWriter out;
  out.number(kFormat);
  out.text(publication.refusal);
  out.text(publication.file_server);
  out.number(publication.ranges.size());
  for (const PublishedRange& range : publication.ranges) {
    write_range(out, range);
  }
  out.number(publication.buffers.size());
  for (const PublishedBuffer& buffer : publication.buffers) {
    out.number(static_cast<std::uint64_t>(buffer.buffer.value));
    out.number(buffer.range);
    out.number(static_cast<std::uint64_t>(buffer.offset_bytes));
    out.number(static_cast<std::uint64_t>(buffer.size_bytes));
  }
  return out.take();
}

IpcPublication decode_publication(const std::string& bytes, int peer) {
  WordReader in(bytes, peer);
  IpcPublication publication;
  if (in.number() != kFormat) {
    in.refuse();
  }
  publication.refusal = in.text();
  publication.file_server = in.text();
  std::vector<std::int64_t> range_sizes_bytes;
  for (std::uint64_t left = in.number(); left > 0; --left) {
    publication.ranges.push_back(read_range(in));
    range_sizes_bytes.push_back(size_of(publication.ranges.back()));
  }
  for (std::uint64_t left = in.number(); left > 0; --left) {
    publication.buffers.push_back(read_buffer(in, range_sizes_bytes));
  }
  in.expect_end();
  return publication;
}

}  // namespace dynatrain

// What ranks of one host put into the store about their memory, and ask each other for.
#include "fuzz/target.hpp"
#include "transport/peer_memory/file_words.hpp"
#include "transport/peer_memory/publication.hpp"

namespace dynatrain::fuzz {
namespace {

void check_buffers(const IpcPublication& read) {
  for (const PublishedBuffer& buffer : read.buffers) {
    std::int64_t room = 0;
    for (const PublishedPiece& piece : read.ranges.at(buffer.range).pieces) {
      room += piece.size_bytes;
    }
    expect(buffer.offset_bytes >= 0 && buffer.size_bytes >= 0 &&
               buffer.size_bytes <= room - buffer.offset_bytes,
           "a buffer lies in its range");
  }
}

}  // namespace

std::vector<std::string> seeds() {
  IpcPublication one;
  one.ranges = {{IpcKind::kHandle, 4096, {{64, "handle", 0}}}};
  one.buffers = {{BufferId(0), 0, 16, 48}};
  IpcPublication two;
  two.file_server = "name";
  two.ranges = {{IpcKind::kFile, 1, {{8, "", 1}, {8, "", 2}}}, {IpcKind::kFile, 99, {{1, "", 3}}}};
  two.buffers = {{BufferId(1), 1, 0, 1}, {BufferId(2), 0, 8, 8}};
  IpcPublication none;
  none.refusal = "no memory of CUDA";
  return {encode(one),
          encode(two),
          encode(none),
          encode_file_request(7),
          encode(FileReply{FileAnswer::kFailed, "reason"})};
}

}  // namespace dynatrain::fuzz

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace dynatrain;
  const std::string bytes(fuzz::text_of(data, size));
  IpcPublication read;
  if (fuzz::is_taken([&] { read = decode_publication(bytes, 3); })) {
    fuzz::check_buffers(read);
    fuzz::expect(encode(read) == bytes, "a publication has one spelling");
  }
  if (const auto file = decode_file_request(bytes)) {
    fuzz::expect(encode_file_request(*file) == bytes, "a request has one spelling");
  }
  if (const auto reply = decode_file_reply(bytes); reply && reply->reason.size() < 99) {
    fuzz::expect(encode(*reply) == bytes, "a reply has one spelling");
  }
  return 0;
}

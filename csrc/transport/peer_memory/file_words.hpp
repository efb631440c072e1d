#pragma once

#include "base/clipped.hpp"
#include <cstdint>
#include <cstring>
#include <optional>
#include <string>

namespace dynatrain {

// What a rank that wants a file and the rank that has it say to each other: one request, one reply,
// each one message. Both run the same library on one machine, so words have its byte order.

enum class FileAnswer : std::uint8_t {
  kGiven,       ///< the file comes with the reply
  kNotOffered,  ///< withdrawn, or never offered
  kFailed,      ///< it is offered, and could not be opened
  kRefused      ///< the request was none, or came from another user
};

struct FileReply {
  FileAnswer answer = FileAnswer::kRefused;
  std::string reason;
};

inline constexpr std::uint64_t kFileFormat = 0x6479'6669'6c65'0001;  // and its version
inline constexpr std::size_t kMaxReasonBytes = 800;

[[nodiscard]] inline std::string two_words(std::uint64_t first, std::uint64_t second) {
  std::string bytes(2 * sizeof(first), '\0');
  std::memcpy(bytes.data(), &first, sizeof(first));
  std::memcpy(bytes.data() + sizeof(first), &second, sizeof(second));
  return bytes;
}

/// The second of two words, when the first is kFileFormat.
[[nodiscard]] inline std::optional<std::uint64_t> word_after_format(const std::string& bytes) {
  std::uint64_t format = 0;
  std::uint64_t word = 0;
  if (bytes.size() < sizeof(format) + sizeof(word)) {
    return std::nullopt;
  }
  std::memcpy(&format, bytes.data(), sizeof(format));
  std::memcpy(&word, bytes.data() + sizeof(format), sizeof(word));
  return format == kFileFormat ? std::optional(word) : std::nullopt;
}

[[nodiscard]] inline std::string encode_file_request(std::uint64_t file) {
  return two_words(kFileFormat, file);
}

[[nodiscard]] inline std::optional<std::uint64_t> decode_file_request(const std::string& bytes) {
  return bytes.size() == 2 * sizeof(std::uint64_t) ? word_after_format(bytes) : std::nullopt;
}

[[nodiscard]] inline std::string encode(const FileReply& reply) {
  return two_words(kFileFormat, static_cast<std::uint64_t>(reply.answer)) +
         clipped(reply.reason, kMaxReasonBytes);
}

[[nodiscard]] inline std::optional<FileReply> decode_file_reply(const std::string& bytes) {
  const std::optional<std::uint64_t> answer = word_after_format(bytes);
  if (!answer.has_value() || *answer > static_cast<std::uint64_t>(FileAnswer::kRefused)) {
    return std::nullopt;
  }
  return FileReply{.answer = static_cast<FileAnswer>(*answer),
                   .reason = bytes.substr(2 * sizeof(std::uint64_t))};
}

}  // namespace dynatrain

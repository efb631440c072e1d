#pragma once

#include "dynatrain/base/error.hpp"

#include <cstdint>
#include <cstring>
#include <string>
#include <utility>

namespace dynatrain {

/// Numbers and texts, one after the other, as a value of the store.
class WordWriter {
 public:
  void number(std::uint64_t value) {
    const std::size_t at = bytes_.size();
    bytes_.resize(at + sizeof(value));
    std::memcpy(bytes_.data() + at, &value, sizeof(value));
  }
  void text(const std::string& value) {
    number(value.size());
    bytes_ += value;
  }
  [[nodiscard]] std::string take() { return std::move(bytes_); }

 private:
  std::string bytes_;
};

/// Reads them back. Errors: TransportError naming the peer when they end too early.
class WordReader {
 public:
  WordReader(const std::string& bytes, int peer) : bytes_(bytes), peer_(peer) {}

  [[nodiscard]] std::uint64_t number() {
    std::uint64_t value = 0;
    need(sizeof(value));
    std::memcpy(&value, bytes_.data() + at_, sizeof(value));
    at_ += sizeof(value);
    return value;
  }
  [[nodiscard]] std::string text() {
    const std::uint64_t size = number();
    need(size);
    at_ += size;
    return bytes_.substr(at_ - size, size);
  }
  void expect_end() const {
    if (at_ != bytes_.size()) {
      refuse();
    }
  }
  [[noreturn]] void refuse() const {
    throw TransportError(
        "transport: what rank " + std::to_string(peer_) +
            " put into the store about its memory cannot be read (" +
            std::to_string(bytes_.size()) +
            " bytes)\n  nothing was mapped\n  use the same version of dynatrain on "
            "all ranks, and a prefix of the store that nobody else writes to",
        peer_,
        -1,
        false);
  }

 private:
  void need(std::uint64_t size) const {
    if (size > bytes_.size() - at_) {
      refuse();
    }
  }

  const std::string& bytes_;
  int peer_;
  std::size_t at_ = 0;
};

}  // namespace dynatrain

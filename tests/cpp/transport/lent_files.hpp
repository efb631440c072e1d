// Files that stand for memory of a device, lent by a server and fetched from it.

#pragma once

#include <gtest/gtest.h>

#include "transport/peer_memory/file_fetcher.hpp"
#include <chrono>
#include <cstring>
#include <string>
#include <sys/mman.h>
#include <unistd.h>

namespace dynatrain {

inline constexpr std::size_t kBytes = 4096;

inline int lent_file(const std::string& text) {
  const int file = memfd_create("lent", MFD_CLOEXEC);
  EXPECT_EQ(ftruncate(file, kBytes), 0);
  EXPECT_EQ(pwrite(file, text.data(), text.size(), 0), static_cast<ssize_t>(text.size()));
  return file;
}

inline std::string text_of(const OwnedFile& file) {
  std::string text(16, '\0');
  const ssize_t size = pread(file.get(), text.data(), text.size(), 0);
  text.resize(size > 0 ? std::strlen(text.c_str()) : 0);
  return text;
}

inline const AbortFlag kNotAborted;

inline PeerWait late() {
  return {.deadline = deadline_in(std::chrono::seconds(20)), .aborted = kNotAborted};
}
inline PeerWait soon() {
  return {.deadline = deadline_in(std::chrono::milliseconds(30)), .aborted = kNotAborted};
}

inline std::string fetched_text(const std::string& name, std::uint64_t file) {
  return text_of(FileFetcher(name, 1, late()).fetch(file));
}

}  // namespace dynatrain

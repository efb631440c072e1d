#pragma once

// CUDA's driver for tests: ranks are threads, device memory is an anonymous file that the owner has
// mapped; whoever opens it maps the file again, elsewhere, and unmaps it on closing. So a read
// after close ends the test program. What the driver leaves undefined is counted as a misuse.

#include "dynatrain/base/error.hpp"

#include <gtest/gtest.h>

#include "transport/open_files.hpp"
#include "transport/peer_memory/ipc_api.hpp"
#include "transport/peer_memory/owned_file.hpp"
#include <cstring>
#include <map>
#include <memory>
#include <mutex>
#include <numeric>
#include <set>
#include <string>
#include <sys/mman.h>
#include <unistd.h>
#include <vector>

namespace dynatrain {

/// One machine with one process for each rank.
class FakeIpcMachine {
 public:
  struct Memory {
    int rank = 0;
    IpcPiece piece;
    std::string id;  ///< never given twice
    int file = -1;
    bool is_exportable = true;
  };

  ~FakeIpcMachine() {
    EXPECT_EQ(num_files(), 0) << "files were left open";
    for (const auto& [base, memory] : memory_) {
      munmap(const_cast<std::byte*>(base), static_cast<std::size_t>(memory.piece.size_bytes));
      close(memory.file);
    }
    EXPECT_EQ(num_open_, 0) << "mappings of peers were left open";
    EXPECT_EQ(misuses, 0);
  }

  /// Device memory of `rank`, `num_pieces` back to back.
  std::byte* allocate(int rank, IpcKind kind, std::int64_t size_bytes, int num_pieces = 1) {
    const std::lock_guard lock(mutex);
    const auto size = static_cast<std::size_t>(size_bytes);
    auto* const base = static_cast<std::byte*>(mmap(nullptr,
                                                    size * static_cast<std::size_t>(num_pieces),
                                                    PROT_NONE,
                                                    MAP_PRIVATE | MAP_ANONYMOUS,
                                                    -1,
                                                    0));
    for (int i = 0; i < num_pieces; ++i) {
      add(rank, kind, base + i * size_bytes, size_bytes);
    }
    return base;
  }
  /// Like cudaFree: the memory of `base` and its id are gone.
  void free(const std::byte* base) {
    const std::lock_guard lock(mutex);
    const Memory memory = memory_.at(base);
    misuses += open_of_[memory.id] > 0 && memory.piece.kind == IpcKind::kHandle && !may_free_opened
                   ? 1
                   : 0;
    munmap(const_cast<std::byte*>(base), static_cast<std::size_t>(memory.piece.size_bytes));
    close(memory.file);
    memory_.erase(base);
  }
  /// Frees, and makes memory of the same size at the same address.
  void remake(std::byte* base) {
    Memory memory;
    {
      const std::lock_guard lock(mutex);
      memory = memory_.at(base);
    }
    free(base);
    const std::lock_guard lock(mutex);
    add(memory.rank, memory.piece.kind, base, memory.piece.size_bytes);
  }
  void forbid_export(const std::byte* base) {
    const std::lock_guard lock(mutex);
    memory_.at(base).is_exportable = false;
  }
  [[nodiscard]] int num_open() const { return num_open_; }
  /// Files of device memory that this program has open, besides the machine's own.
  [[nodiscard]] int num_files() const {
    return count_open_files("fake device memory") - static_cast<int>(memory_.size());
  }

  std::mutex mutex;
  int num_opens = 0;             ///< calls, ever
  int misuses = 0;               ///< double closes, foreign closes, frees of what is open
  bool may_free_opened = false;  ///< what the driver does not forbid in so many words
  std::set<int> refusing;        ///< ranks that can open nothing
  std::set<std::pair<int, IpcKind>> lacks;  ///< ranks whose driver has no such memory

 private:
  friend class FakeIpc;

  void add(int rank, IpcKind kind, std::byte* base, std::int64_t size_bytes) {
    const auto size = static_cast<std::size_t>(size_bytes);
    const int file = memfd_create("fake device memory", 0);
    EXPECT_EQ(ftruncate(file, size_bytes), 0);
    EXPECT_NE(mmap(base, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, file, 0),
              MAP_FAILED);
    memory_[base] = {.rank = rank,
                     .piece = {.kind = kind, .base = base, .size_bytes = size_bytes},
                     .id = std::to_string(++last_id_),
                     .file = file};
  }

  std::map<const std::byte*, Memory> memory_;
  std::map<std::string, int> open_of_;  ///< open mappings, by id
  int last_id_ = 0;
  int num_open_ = 0;
};

/// The driver of one rank.
class FakeIpc final : public IpcApi {
 public:
  FakeIpc(std::shared_ptr<FakeIpcMachine> machine, int rank)
      : machine_(std::move(machine)), rank_(rank) {}

  IpcPiece piece_at(const std::byte* address, std::int64_t /*size_bytes*/) override {
    const std::lock_guard lock(machine_->mutex);
    const auto after = machine_->memory_.upper_bound(address);
    if (after != machine_->memory_.begin()) {
      const FakeIpcMachine::Memory& memory = std::prev(after)->second;
      if (address < memory.piece.base + memory.piece.size_bytes && memory.rank == rank_) {
        check_exportable(memory, memory.piece.kind);
        return memory.piece;
      }
    }
    throw DeviceError("the fake: this is no device memory of rank " + std::to_string(rank_));
  }
  std::string export_handle(const IpcPiece& piece) override {
    const std::lock_guard lock(machine_->mutex);
    return "handle " + exportable(piece, IpcKind::kHandle).id;
  }
  int export_file(const IpcPiece& piece) override {
    const std::lock_guard lock(machine_->mutex);
    return dup(exportable(piece, IpcKind::kFile).file);
  }

  SourceAddress open_handle(const std::string& handle) override {
    const std::lock_guard lock(machine_->mutex);
    check_may_open();
    for (const auto& [base, memory] : machine_->memory_) {
      if ("handle " + memory.id == handle) {
        if (memory.rank == rank_) {
          throw DeviceError("the fake: a process cannot open its own handle");
        }
        std::byte* const mapped = reserve(memory.piece.size_bytes);
        map_at(mapped, memory.file, memory.piece.size_bytes);
        return {.base = opened(mapped, memory.piece.size_bytes, memory.id)};
      }
    }
    throw DeviceError("the fake: the memory of '" + handle + "' is gone");
  }
  void close_handle(SourceAddress handle) override { close_opened(handle.base); }
  const std::byte* map_files(std::span<const std::int64_t> sizes_bytes,
                             const OpenPiece& open) override {
    const std::int64_t total = std::accumulate(sizes_bytes.begin(), sizes_bytes.end(), 0L);
    std::byte* const base = reserve(total);
    std::byte* at = base;
    try {
      for (std::size_t i = 0; i < sizes_bytes.size(); ++i) {
        const OwnedFile file(open(i));  // without the lock: the owner may be another rank here
        check_may_open();
        map_at(at, file.get(), sizes_bytes[i]);
        at += sizes_bytes[i];
      }
    } catch (...) {
      munmap(base, static_cast<std::size_t>(total));
      throw;
    }
    const std::lock_guard lock(machine_->mutex);
    return opened(base, total, "a file");
  }
  void unmap_files(const std::byte* base, std::int64_t size_bytes) override {
    EXPECT_EQ(opened_.at(base).size_bytes, size_bytes);
    close_opened(base);
  }

  IpcPiece allocate(IpcKind kind) override {
    if (machine_->lacks.contains({rank_, kind})) {
      throw DeviceError("the fake: no such memory here");
    }
    return piece_at(machine_->allocate(rank_, kind, 4096), 4096);
  }
  void free(const IpcPiece& piece) override { machine_->free(piece.base); }
  void write(const std::byte* dst, std::uint64_t word, Deadline /*deadline*/) override {
    std::memcpy(const_cast<std::byte*>(dst), &word, sizeof(word));
  }
  std::uint64_t read(SourceAddress src, Deadline /*deadline*/) override {
    std::uint64_t word = 0;
    std::memcpy(&word, src.base, sizeof(word));
    return word;
  }

 private:
  struct Opened {
    std::int64_t size_bytes = 0;
    std::string id;
  };

  static void check_exportable(const FakeIpcMachine::Memory& memory, IpcKind kind) {
    if (!memory.is_exportable || memory.piece.kind != kind) {
      throw DeviceError("the fake: this memory cannot be exported");
    }
  }
  const FakeIpcMachine::Memory& exportable(const IpcPiece& piece, IpcKind kind) {
    const FakeIpcMachine::Memory& memory = machine_->memory_.at(piece.base);
    check_exportable(memory, kind);
    return memory;
  }
  void check_may_open() {
    if (machine_->refusing.contains(rank_)) {
      throw DeviceError("the fake: rank " + std::to_string(rank_) + " may open nothing");
    }
  }
  static std::byte* reserve(std::int64_t size_bytes) {
    return static_cast<std::byte*>(mmap(nullptr,
                                        static_cast<std::size_t>(size_bytes),
                                        PROT_NONE,
                                        MAP_PRIVATE | MAP_ANONYMOUS,
                                        -1,
                                        0));
  }
  static void map_at(std::byte* at, int file, std::int64_t size_bytes) {
    const auto size = static_cast<std::size_t>(size_bytes);
    EXPECT_NE(mmap(at, size, PROT_READ, MAP_SHARED | MAP_FIXED, file, 0), MAP_FAILED);
  }
  const std::byte* opened(std::byte* base, std::int64_t size_bytes, const std::string& id) {
    int& open_of_id = machine_->open_of_[id];
    opened_[base] = {.size_bytes = size_bytes, .id = id};  // what may throw comes first
    ++machine_->num_opens;
    ++machine_->num_open_;
    ++open_of_id;
    return base;
  }
  void close_opened(const std::byte* base) {
    const std::lock_guard lock(machine_->mutex);
    const auto found = opened_.find(base);
    if (found == opened_.end()) {
      ++machine_->misuses;
      return;
    }
    munmap(const_cast<std::byte*>(base), static_cast<std::size_t>(found->second.size_bytes));
    --machine_->num_open_;
    --machine_->open_of_[found->second.id];
    opened_.erase(found);
  }

  std::shared_ptr<FakeIpcMachine> machine_;
  int rank_;
  std::map<const std::byte*, Opened> opened_;
};

}  // namespace dynatrain

#pragma once

#include "dynatrain/transport/peer_memory.hpp"
#include "dynatrain/transport/store.hpp"

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

namespace dynatrain {

/// Host memory that other processes of the machine can map: pages of an anonymous file.
///
/// Ownership  of its pages, until it is destroyed; who has them mapped keeps them longer. A forked
///            child shares the pages with its parent: what either writes, both see. A large block
///            goes in a thread of its own, 80 ms for each GB; wait_for_leaving() waits for that,
///            and so does the making of a block.
/// Errors     std::bad_alloc when the system refuses it; DeviceError when it has no more files.
/// Cost       every page is touched once, at about 1.3 GB/s with pages of 4 KiB; a file descriptor.
class SharedBlock {
 public:
  /// Zeroed and touched memory of `size_bytes`, more than 0, from a page on.
  explicit SharedBlock(std::int64_t size_bytes);
  ~SharedBlock();
  SharedBlock(const SharedBlock&) = delete;
  SharedBlock& operator=(const SharedBlock&) = delete;
  SharedBlock(SharedBlock&&) = delete;
  SharedBlock& operator=(SharedBlock&&) = delete;

  [[nodiscard]] std::byte* data() const { return data_; }
  [[nodiscard]] std::int64_t size_bytes() const { return size_bytes_; }
  /// Waits until all blocks that were destroyed have given their pages back. Any thread.
  static void wait_for_leaving();
  /// Whether an address lies in a block of this process. Any thread.
  [[nodiscard]] static bool holds(const std::byte* address);

 private:
  std::byte* data_ = nullptr;
  std::int64_t size_bytes_ = 0;
};

/// Adds to `messages` a one-sided part through which `ranks`, those of this machine in ascending
/// order, read each other's memory, where every one of them can; otherwise it only forwards. The
/// report says why.
///
/// What lies in SharedBlocks is mapped. The rest is read out of its process (`process_vm_readv`),
/// by the same rights as a debugger's: where one rank may not, such memory is told to be
/// unreadable, and messages bring it. Nothing is done to get these rights.
///
/// Ownership  `messages` must outlive the transport, which keeps `store`: one of these ranks alone.
/// Threads    collective over `ranks`. The one-sided part: one caller at a time; abort() at any
///            time.
/// Errors     TransportError when a rank does not come before the deadline; nothing is left behind.
/// Cost       2 values set and 2 got by each, once; then 1 set a publication and rank, and 1 got
///            for each peer that is read. Two sockets, a connection to each of these ranks, and a
///            thread that sleeps.
/// Source     own; docs/design/transport.md, "shared_memory".
[[nodiscard]] PeerMemoryConnection make_shared_memory_transport(Transport& messages,
                                                                std::shared_ptr<Store> store,
                                                                std::vector<int> ranks,
                                                                Deadline deadline);

}  // namespace dynatrain

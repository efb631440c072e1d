#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <sys/uio.h>

namespace dynatrain {

/// Pieces that one read_process() takes at most on either side (the system's IOV_MAX).
inline constexpr std::size_t kMaxReadPieces = 1024;

/// A process, and the rank that it is, for messages; -1 where that is not known.
struct OtherProcess {
  int number = 0;
  int rank = -1;
};

/// Copies pieces of another process's memory into this one's, in one call of the system
/// (`process_vm_readv`): `theirs`, one after the other, fill `own`, which are as long together.
/// The process lives on meanwhile, whether it runs or is stopped.
/// Errors  DeviceError: the process has ended, or has no such memory, or this one may not read it.
///         Pieces before the one that failed may have been written.
void read_process(OtherProcess process, std::span<const iovec> own, std::span<const iovec> theirs);

/// The same, of a peer whose memory was found readable before.
/// Errors  TransportError where it has ended, else as read_process().
void read_peer(OtherProcess process, std::span<const iovec> own, std::span<const iovec> theirs);

/// Reads the first and the last byte of what is to be read later: some memory of a process its
/// owner alone can read.
/// Errors  as read_process().
void check_readable(OtherProcess process, const std::byte* base, std::int64_t size_bytes);

}  // namespace dynatrain

#pragma once

#include "dynatrain/base/token.hpp"
#include "dynatrain/execution/copier.hpp"

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <string>

namespace dynatrain {

/// How a piece of memory is handed to another process.
enum class IpcKind : std::uint8_t {
  kHandle,  ///< a handle: of CUDA IPC, for what cudaMalloc made; for host memory, its process and
            ///< place
  kFile     ///< a POSIX file descriptor, for what cuMemCreate made, and for host memory
};

/// What holds an address: an allocation, or one physical handle of a mapped range.
struct IpcPiece {
  IpcKind kind = IpcKind::kHandle;
  const std::byte* base = nullptr;
  std::int64_t size_bytes = 0;
};

/// Opens the file of a range's i-th piece; whoever calls it closes the file.
using OpenPiece = std::function<int(std::size_t piece)>;

/// The few calls of the system or of CUDA's driver that the transport makes.
/// Threads  any; export_file also beside other calls.
/// Errors   every call throws DeviceError that says what was refused.
class IpcApi {
 public:
  virtual ~IpcApi() = default;

  /// What holds `address`; of memory that nothing is known of, the `size_bytes` behind it.
  /// Errors: also for memory that no other process can be given, with what it is.
  [[nodiscard]] virtual IpcPiece piece_at(const std::byte* address, std::int64_t size_bytes) = 0;
  [[nodiscard]] virtual std::string export_handle(const IpcPiece& piece) = 0;
  /// A file that the caller closes; it keeps the memory alive.
  [[nodiscard]] virtual int export_file(const IpcPiece& piece) = 0;

  [[nodiscard]] virtual SourceAddress open_handle(const std::string& handle) = 0;
  virtual void close_handle(SourceAddress opened) = 0;
  /// Maps pieces of these sizes back to back. At most one of their files is open at a time.
  /// Errors: also what `open` throws.
  [[nodiscard]] virtual const std::byte* map_files(std::span<const std::int64_t> sizes_bytes,
                                                   const OpenPiece& open) = 0;
  virtual void unmap_files(const std::byte* base, std::int64_t size_bytes) = 0;

  /// Memory for the probe, that shares no page with other memory.
  [[nodiscard]] virtual IpcPiece allocate(IpcKind kind) = 0;
  virtual void free(const IpcPiece& piece) = 0;
  /// On return the word is where other processes read it.
  /// Errors: at the deadline too; the memory may be written still, and must not be freed then.
  virtual void write(const std::byte* dst, std::uint64_t word, Deadline deadline) = 0;
  /// Errors: at the deadline too.
  [[nodiscard]] virtual std::uint64_t read(SourceAddress src, Deadline deadline) = 0;
};

}  // namespace dynatrain

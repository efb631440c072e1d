#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

namespace dynatrain {

/// How a piece of device memory is handed to another process.
enum class IpcKind : std::uint8_t {
  kHandle,  ///< a handle of CUDA IPC, for what cudaMalloc made
  kFile     ///< a POSIX file descriptor, for what cuMemCreate made
};

/// What holds an address: an allocation, or one physical handle of a mapped range.
struct IpcPiece {
  IpcKind kind = IpcKind::kHandle;
  const std::byte* base = nullptr;
  std::int64_t size_bytes = 0;
  std::uint64_t id = 0;  ///< never given twice by a process; 0 when the driver gives none
};

/// A piece as a file of this process.
struct IpcFile {
  int file = -1;
  std::int64_t size_bytes = 0;
};

/// The few calls of driver and system that the transport makes, on one device.
/// Errors  every call throws DeviceError that says what was refused.
class IpcApi {
 public:
  virtual ~IpcApi() = default;

  /// Errors: also for memory that no other process can be given.
  [[nodiscard]] virtual IpcPiece piece_at(const std::byte* address) = 0;
  [[nodiscard]] virtual std::string export_handle(const IpcPiece& piece) = 0;
  /// A file that the caller closes; it keeps the memory alive.
  [[nodiscard]] virtual int export_file(const IpcPiece& piece) = 0;

  [[nodiscard]] virtual const std::byte* open_handle(const std::string& handle) = 0;
  virtual void close_handle(const std::byte* base) = 0;
  /// Maps the pieces back to back. The files may be closed afterwards.
  [[nodiscard]] virtual const std::byte* map_files(std::span<const IpcFile> files) = 0;
  virtual void unmap_files(const std::byte* base, std::int64_t size_bytes) = 0;

  /// The number by which peers name this process.
  [[nodiscard]] virtual int process() = 0;
  /// A copy, in this process, of a file of another one; the caller closes it.
  [[nodiscard]] virtual int fetch_file(int process, int file) = 0;
  virtual void close_file(int file) = 0;

  /// Memory for the probe; as small as the driver has it.
  [[nodiscard]] virtual IpcPiece allocate(IpcKind kind) = 0;
  virtual void free(const IpcPiece& piece) = 0;
  virtual void write(const std::byte* dst, std::uint64_t word) = 0;
  [[nodiscard]] virtual std::uint64_t read(const std::byte* src) = 0;
};

}  // namespace dynatrain

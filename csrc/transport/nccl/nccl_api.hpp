#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>

namespace dynatrain {

/// The results of NCCL that matter here, with NCCL's own values; any other one is an error as well.
enum class NcclResult : std::uint8_t {
  kSuccess = 0,
  kInternalError = 3,
  kRemoteError = 6,
  kInProgress = 7
};

using NcclComm = void*;  ///< ncclComm_t
using NcclId = std::array<std::byte, 128>;

/// A result and what came with it.
template <class Value>
struct NcclAnswer {
  NcclResult result = NcclResult::kSuccess;
  Value value{};
};

struct NcclInit {
  int rank = 0;
  int size = 1;
  NcclId id{};
  int max_channels = 32;
};

/// The few calls of NCCL that the transport makes, each under its own name, none throwing. The
/// loaded library implements it (loaded_nccl.cpp); tests put other ones in its place.
class NcclApi {
 public:
  virtual ~NcclApi() = default;
  [[nodiscard]] virtual NcclAnswer<NcclId> get_unique_id() = 0;
  /// Always with blocking = 0: kInProgress until async_error() says otherwise.
  [[nodiscard]] virtual NcclAnswer<NcclComm> comm_init(const NcclInit& init) = 0;
  [[nodiscard]] virtual NcclResult async_error(NcclComm comm) = 0;
  [[nodiscard]] virtual std::string describe(NcclResult result, NcclComm comm) = 0;
  [[nodiscard]] virtual NcclResult group_start() = 0;
  [[nodiscard]] virtual NcclResult group_end() = 0;
  [[nodiscard]] virtual NcclResult send(
      const std::byte* data, std::int64_t size_bytes, int peer, NcclComm comm, void* stream) = 0;
  [[nodiscard]] virtual NcclResult recv(
      std::byte* data, std::int64_t size_bytes, int peer, NcclComm comm, void* stream) = 0;
  /// Why none of the next four may be called; empty when they may.
  [[nodiscard]] virtual std::string registration_problem() const = 0;
  [[nodiscard]] virtual NcclAnswer<std::byte*> mem_alloc(std::int64_t size_bytes) = 0;
  [[nodiscard]] virtual NcclResult mem_free(std::byte* memory) = 0;
  /// Local; a null handle says that NCCL does not want to know (NCCL_LOCAL_REGISTER=0).
  [[nodiscard]] virtual NcclAnswer<void*> comm_register(NcclComm comm,
                                                        std::byte* memory,
                                                        std::int64_t size_bytes) = 0;
  /// Asks peers of the host to let go of what they have mapped.
  [[nodiscard]] virtual NcclResult comm_deregister(NcclComm comm, void* handle) = 0;
  [[nodiscard]] virtual NcclResult comm_finalize(NcclComm comm) = 0;
  [[nodiscard]] virtual NcclResult comm_destroy(NcclComm comm) = 0;
  [[nodiscard]] virtual NcclResult comm_abort(NcclComm comm) = 0;
};

}  // namespace dynatrain

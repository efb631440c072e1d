#pragma once

#include "transport/nccl/nccl_api.hpp"
#include <climits>
#include <cstddef>

namespace dynatrain {

// What is used of NCCL, as its header has it from version 2.27 on, so that the header is not
// needed. Enumerations are int; tests/cpp/transport/declarations_test.cpp compares all of it with
// the header where it can be compiled.

using NcclStatus = int;

inline constexpr NcclStatus kNcclSuccess = 0;
inline constexpr int kNcclInt8 = 0;
inline constexpr int kOldestNcclVersion = 22700;

struct NcclUniqueId {
  char internal[128] = {};
};

/// The configuration of a communicator as 2.27 has it; later versions take it by `size` and
/// `version`, and choose what they have added.
struct NcclConfig {
  static constexpr int kUndefined = INT_MIN;

  std::size_t size = sizeof(NcclConfig);
  unsigned int magic = 0xcafebeef;
  unsigned int version = kOldestNcclVersion;
  int blocking = kUndefined;
  int cga_cluster_size = kUndefined;
  int min_ctas = kUndefined;
  int max_ctas = kUndefined;
  const char* net_name = nullptr;
  int split_share = kUndefined;
  int traffic_class = kUndefined;
  const char* comm_name = nullptr;
  int collnet_enable = kUndefined;
  int cta_policy = kUndefined;
  int shrink_share = kUndefined;
  int nvls_ctas = kUndefined;
};

/// The functions of the library, looked up when the program runs.
struct NcclCalls {
  NcclStatus (*get_version)(int* version) = nullptr;
  NcclStatus (*get_unique_id)(NcclUniqueId* id) = nullptr;
  NcclStatus (*comm_init_rank_config)(
      NcclComm* comm, int num_ranks, NcclUniqueId id, int rank, NcclConfig* config) = nullptr;
  NcclStatus (*comm_get_async_error)(NcclComm comm, NcclStatus* state) = nullptr;
  const char* (*get_error_string)(NcclStatus status) = nullptr;
  const char* (*get_last_error)(NcclComm comm) = nullptr;
  NcclStatus (*group_start)() = nullptr;
  NcclStatus (*group_end)() = nullptr;
  NcclStatus (*send)(const void* data,
                     std::size_t count,
                     int type,
                     int peer,
                     NcclComm comm,
                     void* stream) = nullptr;
  NcclStatus (*recv)(
      void* data, std::size_t count, int type, int peer, NcclComm comm, void* stream) = nullptr;
  NcclStatus (*comm_finalize)(NcclComm comm) = nullptr;
  NcclStatus (*comm_destroy)(NcclComm comm) = nullptr;
  NcclStatus (*comm_abort)(NcclComm comm) = nullptr;
  // Null in a library without them.
  NcclStatus (*mem_alloc)(void** memory, std::size_t size) = nullptr;
  NcclStatus (*mem_free)(void* memory) = nullptr;
  NcclStatus (*comm_register)(NcclComm comm, void* data, std::size_t size, void** handle) = nullptr;
  NcclStatus (*comm_deregister)(NcclComm comm, void* handle) = nullptr;
};

}  // namespace dynatrain

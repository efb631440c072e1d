#pragma once

#include "dynatrain/execution/transport.hpp"
#include "dynatrain/transport/store.hpp"

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

namespace dynatrain {

/// How a NCCL transport cuts and bounds its work. What cuts messages and names memory is equal on
/// all ranks.
struct NcclOptions {
  int device = 0;  ///< CUDA device of this rank
  /// Sends, and likewise receives, that one ncclGroup may hold on a rank. Such a group must fit one
  /// kernel plan of NCCL: 2 * max_ops_per_group * C <= 254, C being max_channels rounded up to a
  /// power of two.
  int max_ops_per_group = 3;
  int max_channels = 32;                   ///< what NCCL may use (maxCTAs)
  std::int64_t piece_bytes = 64LL << 20U;  ///< longer messages travel in pieces of this size
  /// Staging comes from ncclMemAlloc and is registered with the communicator, so that NCCL may read
  /// and write it without a copy of its own. Off until a GPU has shown what it is worth.
  bool register_staging = false;
  /// How long anybody waits for NCCL to abort or close the communicator, whose calls know no
  /// deadline. Later, it is left to itself with its stream, and memory that it was given is in use.
  std::chrono::milliseconds end_timeout{15000};
};

/// What this process can do with NCCL.
struct NcclReport {
  std::string problem;                   ///< why there is no transport; empty when there is one
  std::string version;                   ///< of the library, such as "2.28.9"; empty when none
  std::vector<std::string> newer_calls;  ///< calls newer than 2.27 that the library has
  std::string registration_problem;      ///< why staging cannot be registered; empty when it can
};

/// Looks for the library (already loaded, else by name) and its calls, and for CUDA's runtime and
/// driver. Import torch first: its libraries are the ones to find. Never
/// throws for what it does not find: that is `problem`.
[[nodiscard]] NcclReport nccl_report();
/// Why a NCCL transport cannot be made in this process; empty when it can. Looks at no device.
[[nodiscard]] std::string nccl_problem();
/// Version of the NCCL library of this process, such as "2.28.9"; empty when there is none.
[[nodiscard]] std::string nccl_version();

/// Connects `size` ranks over a communicator of their own and returns this rank's transport.
///
/// The communicator's id goes through `store`, which is used for nothing else and not kept.
///
/// Ownership  memory is sent and received where it lies: the device's, or pinned; other is refused.
/// Threads    collective over the ranks. Calls on the transport: any thread, and every rank posts
///            its exchanges in the same order; abort() at any time.
/// Streams    one stream of its own, not the default one. Tokens are DeviceCompletions on it.
/// Errors     DeviceError when nccl_problem() is not empty, CUDA refuses, or a variable of NCCL's
///            overrides what deadlines and groups rest on; LayoutError for options that cannot
///            work or are not rank 0's; TransportError when a rank does not come before the
///            deadline, with nothing left behind. After the first error of any exchange the
///            communicator is aborted: make a new transport.
/// Source     own; docs/design/transport.md, "nccl".
[[nodiscard]] std::unique_ptr<Transport> make_nccl_transport(
    int rank, int size, const NcclOptions& options, Store& store, Deadline deadline);

}  // namespace dynatrain

#pragma once

#include "dynatrain/execution/copier.hpp"
#include "dynatrain/execution/tensor_memory.hpp"
#include "dynatrain/layout/shard_map.hpp"

#include <chrono>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace dynatrain {

/// What hashing a rank's memory takes.
struct HashMeans {
  int num_threads = 1;
  /// Sums what lies on its device, where it lies; null where all memory is the host's.
  Copier* copier = nullptr;
  /// Memory is read once they are done.
  std::vector<Token> after{};  // NOLINT(readability-redundant-member-init): as GCC warns
  std::chrono::milliseconds timeout{60000};  ///< of `after`, and of the device's sums
};

/// This rank's share of the 64-bit fingerprint of a state: the sum modulo 2^64, over the elements
/// of which this rank is the lowest owner, of a mixed hash of (name, global index, bits). The sum
/// over all ranks is the same in every layout.
/// Errors  TransportError at the deadline, what the copier failed with; InternalError where memory
/// is too short. Cost    10 GB/s a thread; device memory is read once by its device, one launch.
[[nodiscard]] std::uint64_t fingerprint_share(const ShardMap& map,
                                              int rank,
                                              const TensorMemory& memory,
                                              const HashMeans& means);

/// This rank's shares of sums that tell whether tensors of one shape hold the same: of each name,
/// as fingerprint_share() of a state that has the tensor alone, whose name does not count.
/// Errors and cost as fingerprint_share(); InternalError for a name that the map has not.
[[nodiscard]] std::vector<std::uint64_t> content_shares(const ShardMap& map,
                                                        int rank,
                                                        const TensorMemory& memory,
                                                        std::span<const std::string> names,
                                                        const HashMeans& means);

/// A rank's hash of one of its fragments; ranks that hold the same box must agree.
struct FragmentHash {
  TensorId tensor;
  Box box;
  std::uint64_t hash = 0;
};
/// Of the tensors that are named, or of all where none is. Errors and cost as fingerprint_share().
[[nodiscard]] std::vector<FragmentHash> fragment_hashes(const ShardMap& map,
                                                        int rank,
                                                        const TensorMemory& memory,
                                                        const HashMeans& means,
                                                        std::span<const std::string> names = {});
/// Compares what all ranks hold of each cell. `hashes_of_rank[r]` is fragment_hashes() of rank r.
/// Returns  one line per difference, naming tensor, box and ranks; empty when replicas agree.
[[nodiscard]] std::vector<std::string> compare_replicas(
    const ShardMap& map, std::span<const std::vector<FragmentHash>> hashes_of_rank);

}  // namespace dynatrain

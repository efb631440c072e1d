#pragma once

#include "dynatrain/fingerprint/fingerprint.hpp"

#include "fingerprint/box_sum.hpp"
#include <cstdint>
#include <vector>

namespace dynatrain {

/// For each piece, the sum of fingerprint_term over its elements. Pieces in host memory are read
/// where they lie; those on a device are fetched, one lot while the threads sum the one before.
/// Errors: as fingerprint_share().
[[nodiscard]] std::vector<std::uint64_t> sum_pieces(const ShardMap& map,
                                                    const std::vector<SummedBox>& pieces,
                                                    const TensorMemory& memory,
                                                    const HashMeans& means);

}  // namespace dynatrain

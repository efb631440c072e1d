#pragma once

#include "dynatrain/fingerprint/fingerprint.hpp"

#include <cstddef>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace dynatrain {

/// Packs hashes for the exchange between ranks: 64-bit little-endian words, per fragment the tensor
/// id, the number of dimensions, begins, ends, and the hash.
[[nodiscard]] std::string encode_hashes(std::span<const FragmentHash> hashes);

/// Reads what encode_hashes() made of tensors of a map that has `num_tensors`. Errors: LayoutError
/// when the bytes are anything else.
[[nodiscard]] std::vector<FragmentHash> decode_hashes(std::string_view blob,
                                                      std::size_t num_tensors);

}  // namespace dynatrain

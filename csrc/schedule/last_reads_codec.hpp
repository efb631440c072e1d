#pragma once

#include <cstddef>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace dynatrain {

/// last_reads() as bytes, to pass on: runs of tensors with one number, each as that number and how
/// many they are, 32 bits of either. Tensors are moved in their order, stage by stage, so that
/// there are about as many runs as stages, however many tensors there are.
[[nodiscard]] std::string encode_last_reads(std::span<const int> last_reads);

/// The largest number of several, tensor by tensor; nothing is written out.
/// Errors   TransportError where one is no such encoding, or they are of different numbers of
/// tensors. Cost     O(runs of all).
[[nodiscard]] std::string largest_last_reads(std::span<const std::string> encoded);

/// Errors   TransportError where it is no such encoding, or of another number of tensors.
[[nodiscard]] std::vector<int> decode_last_reads(std::string_view encoded, std::size_t num_tensors);

}  // namespace dynatrain

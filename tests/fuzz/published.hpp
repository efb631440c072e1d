#pragma once

#include "layout/blob.hpp"
#include <string>
#include <string_view>
#include <vector>

/// Publications of shard maps with and without what stands around them.
namespace dynatrain::fuzz {

inline constexpr std::string_view kFirstLine = "dynatrain map 1\n";

/// `body` between the first line of a publication and a checksum that fits.
[[nodiscard]] inline std::string published(std::string_view body) {
  std::string bytes = std::string(kFirstLine) + std::string(body);
  const std::uint64_t checksum = blob_checksum(bytes);
  for (unsigned shift = 0; shift < 64; shift += 8) {
    bytes.push_back(static_cast<char>(checksum >> shift & 0xffU));
  }
  return bytes;
}

/// Bodies of publications of every form: cuts of both kinds, fragments, whole and empty tensors.
[[nodiscard]] inline std::vector<std::string> published_bodies() {
  const Placement shard{Placement::Kind::kShard, 0, 1};
  const DType f32{"float32", 4};
  const Fragment upper{{{0, 0}, {2, 4}}, {0, {4, 1}}};
  const Fragment lower{{{3, 0}, {4, 4}}, {16, {4, 1}}};
  const std::vector<Blob> blobs{
      {},
      {{}, {{{"scalar|step", {}, f32}, -1, {}}}},
      {{{{{2, 2}, {0, 1, 2, 3}}, {{Placement::Kind::kShard, 0, 2}, shard}}},
       {{{"a|param", {7, 4}, f32}, 0, {}}, {{"b|param", {0}, f32}, 0, {}}}},
      {{{{{2}, {0, 1}}, {shard}}, {{{2}, {1, 0}}, {{}}}},
       {{{"a|param", {5}, f32}, 0, {}}, {{"b|param", {5}, f32}, 1, {}}}},
      {{{{{2, 1}, {0, 1}}, {{Placement::Kind::kShard, 0, 70}, {Placement::Kind::kShard, 0, 80}}}},
       {{{"a|param", {5000}, f32}, 0, {}}}},
      {{}, {{{"a|param", {4, 4}, f32}, -1, {upper}}}},
      {{}, {{{"a|param", {4, 4}, f32}, -1, {upper, lower}}, {{"b|x", {2}, f32}, -1, {}}}}};
  std::vector<std::string> bodies;
  for (const Blob& blob : blobs) {
    const std::string bytes = encode_blob(blob);
    bodies.push_back(bytes.substr(kFirstLine.size(), bytes.size() - kFirstLine.size() - 8));
  }
  return bodies;
}

}  // namespace dynatrain::fuzz

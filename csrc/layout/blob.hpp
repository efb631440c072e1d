#pragma once

#include "dynatrain/layout/shard_map.hpp"

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace dynatrain {

// The form in which a rank publishes what it holds; docs/design/layout.md, "Publications".

/// Mesh + placements, kept once for all tensors of a blob that share them.
struct BlobCut {
  Mesh mesh;
  std::vector<Placement> placements;

  friend bool operator==(const BlobCut&, const BlobCut&) = default;
};

/// One tensor of a blob: cut by `cut` when it is not -1, else in `fragments`, else whole.
struct BlobTensor {
  LogicalTensor tensor;
  std::int64_t cut = -1;
  std::vector<Fragment> fragments;
};

struct Blob {
  std::vector<BlobCut> cuts;
  std::vector<BlobTensor> tensors;  ///< by name, ascending, no name twice
};

/// Packs a blob. Equal blobs give equal bytes.
[[nodiscard]] std::string encode_blob(const Blob& blob);

/// Reads a blob. Errors: LayoutError when the bytes are not what encode_blob() writes; whatever
/// they are, nothing is read outside them and no more memory is taken than they account for.
[[nodiscard]] Blob decode_blob(std::string_view bytes);

/// The eight bytes that end a blob, over everything before them.
[[nodiscard]] std::uint64_t blob_checksum(std::string_view body);

}  // namespace dynatrain

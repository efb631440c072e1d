#pragma once

#include "dynatrain/base/dtype.hpp"
#include "dynatrain/base/strong_id.hpp"
#include "dynatrain/geometry/box.hpp"
#include "dynatrain/geometry/view.hpp"
#include "dynatrain/layout/layout.hpp"
#include "dynatrain/layout/placement.hpp"

#include <cstddef>
#include <cstdint>
#include <limits>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace dynatrain {

/// One training state as if every parallel size were 1. `name` is "<fqn>|<slot>", slot is "param",
/// "buffer", or an optimizer slot such as "exp_avg".
struct LogicalTensor {
  std::string name;
  Shape shape;
  DType dtype;

  [[nodiscard]] std::int64_t size_bytes() const;
  friend bool operator==(const LogicalTensor&, const LogicalTensor&) = default;
};

/// A box that one rank holds, and where it lies in that rank's buffer of the tensor.
struct Fragment {
  Box box;
  View view;
  friend bool operator==(const Fragment&, const Fragment&) = default;
};

/// A distinct box of a tensor and the ranks that hold exactly it, ascending.
struct OwnedBox {
  Box box;
  std::vector<int> ranks;
  friend bool operator==(const OwnedBox&, const OwnedBox&) = default;
};

/// How some ranks share one tensor. Compact (answers are computed) or a table. Immutable.
class Sharding {
 public:
  Sharding() = default;
  Sharding(const Sharding&) = delete;
  Sharding& operator=(const Sharding&) = delete;
  virtual ~Sharding() = default;
  /// The non-empty fragments of `rank`, sorted by box; none when it holds nothing.
  [[nodiscard]] virtual std::vector<Fragment> fragments(const Shape& shape, int rank) const = 0;
  /// All distinct boxes that are not empty, sorted.
  [[nodiscard]] virtual std::vector<OwnedBox> owned_boxes(const Shape& shape) const = 0;
  /// Ranks that take part (they may hold an empty box), ascending.
  [[nodiscard]] virtual std::vector<int> ranks() const = 0;
  /// Equal shardings of equal shapes have equal hashes; used to plan one and stamp the rest.
  [[nodiscard]] virtual std::uint64_t hash() const = 0;
  /// Why a tensor of `shape` cannot be shared this way; empty when it can. Asked once per entry of
  /// a map, before anything else.
  [[nodiscard]] virtual std::string misfit(const Shape& shape) const = 0;
  /// The extents of `rank`'s dense local tensor, empty ones included; nothing when the sharding
  /// does not say (a table) or `rank` takes no part.
  [[nodiscard]] virtual std::optional<Shape> local_shape(const Shape& shape, int rank) const;
};

/// Mesh + placements. The local buffer is dense row-major over the local intervals.
/// Errors: LayoutError when mesh and placements do not fit.
[[nodiscard]] std::shared_ptr<const Sharding> make_compact_sharding(
    Mesh mesh, std::vector<Placement> placements);

/// Every listed rank holds the whole tensor, dense.
[[nodiscard]] std::shared_ptr<const Sharding> make_replicated_sharding(std::vector<int> ranks);

/// Explicit fragments per rank, views included. Errors: LayoutError when fragments of one rank
/// overlap.
[[nodiscard]] std::shared_ptr<const Sharding> make_table_sharding(
    std::map<int, std::vector<Fragment>> fragments_of_rank);

/// Several shardings of one tensor side by side (a tied weight lives on two pipeline stages).
/// Errors: LayoutError when a rank takes part in two of them.
[[nodiscard]] std::shared_ptr<const Sharding> make_union_sharding(
    std::vector<std::shared_ptr<const Sharding>> parts);

/// The part of a sharding that ranks below `num_present` hold; the others have gone and hold
/// nothing.
[[nodiscard]] std::shared_ptr<const Sharding> make_present_sharding(
    std::shared_ptr<const Sharding> whole, int num_present);

/// A flat 1-D cut (ZeRO-1 buffers, FlatParameter): rank i of `ranks` holds elements
/// [bounds[i], bounds[i+1]) of the row-major tensor, dense in its buffer from element
/// `offsets_elems[i]` on. A table sharding with at most 2N-1 boxes per rank.
[[nodiscard]] std::shared_ptr<const Sharding> make_flat_sharding(
    const Shape& shape,
    std::span<const int> ranks,
    std::span<const std::int64_t> bounds,
    std::span<const std::int64_t> offsets_elems);

/// The image of one layout: for each logical tensor, which rank holds which box. Tensors are
/// ordered by name, so ids are equal wherever the names are. Immutable once made.
class ShardMap {
 public:
  struct Entry {
    LogicalTensor tensor;
    std::shared_ptr<const Sharding> sharding;
  };
  /// Errors: LayoutError when a name repeats, a size does not fit 64 bits, or a tensor does not fit
  /// its sharding (names the tensor).
  explicit ShardMap(std::vector<Entry> entries);

  [[nodiscard]] std::size_t num_tensors() const { return entries_.size(); }
  [[nodiscard]] const LogicalTensor& tensor(TensorId id) const;
  [[nodiscard]] const Sharding& sharding(TensorId id) const;
  /// The same, for a map that shares it.
  [[nodiscard]] std::shared_ptr<const Sharding> shared_sharding(TensorId id) const;
  /// The id of `name`, or an id of value -1.
  [[nodiscard]] TensorId find(std::string_view name) const;
  [[nodiscard]] std::vector<Fragment> fragments(TensorId id, int rank) const;
  [[nodiscard]] std::vector<OwnedBox> owned_boxes(TensorId id) const;
  /// One past the largest rank that takes part.
  [[nodiscard]] int num_ranks() const { return num_ranks_; }
  /// Bytes of all fragments of `rank`.
  [[nodiscard]] std::int64_t bytes_of_rank(int rank) const;
  /// Equal on all ranks that hold the same map (law 4).
  [[nodiscard]] std::uint64_t hash() const;

 private:
  std::vector<Entry> entries_;
  int num_ranks_ = 0;
};

/// What one rank says of one of its own live tensors; the unit that ranks publish.
struct Descriptor {
  LogicalTensor tensor;
  /// Mesh + placements when `mesh.ranks` is not empty; else explicit `fragments` of this rank;
  /// else (both empty) this rank holds the whole tensor, dense.
  Mesh mesh;
  std::vector<Placement> placements;
  std::vector<Fragment> fragments;
};

/// Packs descriptors for publishing. Two ranks that say the same produce equal bytes.
[[nodiscard]] std::string encode_descriptors(std::span<const Descriptor> descriptors);

/// One published blob and the ranks that published exactly it.
struct Publication {
  std::string blob;
  std::vector<int> ranks;
};

/// Joins what all ranks published into one map. Ranks of meshes from `num_present` on are those of
/// members that have gone: they publish nothing, and own nothing.
/// Errors   LayoutError when a blob does not parse, or two ranks disagree about a tensor's shape,
///          dtype or placements (names tensor, ranks and both values).
[[nodiscard]] ShardMap merge_publications(std::span<const Publication> publications,
                                          int num_present = std::numeric_limits<int>::max());

/// What a rank really holds in memory for one tensor, in elements.
struct LiveTensor {
  TensorId id;
  Shape local_shape;
  Strides local_strides;
};

/// Proves that the map's answer for `rank` equals its live objects: each live tensor has the
/// fragments, extents and strides that the map says, and nothing that the map says is missing.
/// Errors   LayoutError naming the first tensor that differs, map's and live value.
void prove_live(const ShardMap& map, int rank, std::span<const LiveTensor> live);

/// Proves coverage: every element of every tensor has an owner, and fragments of one rank are
/// disjoint. Errors: LayoutError naming the tensor and an uncovered box.
void prove_coverage(const ShardMap& map);

/// Axes of `layout` that cut no tensor: ranks that differ along one alone hold the same boxes. Of
/// dp_shard, pp and tp, which are there to cut the state.
///
/// `ranks` are those of the map by rank of the layout.
/// Cost     the boxes of each distinct sharding, up to the first that is cut.
/// Source   own; docs/design/layout.md, "Proofs".
[[nodiscard]] std::vector<Axis> axes_without_cut(const ShardMap& map,
                                                 const Layout& layout,
                                                 std::span<const int> ranks);

/// What of a tensor nobody holds.
struct Hole {
  TensorId id;
  std::vector<Box> boxes;  ///< disjoint, sorted, never empty
};

/// Everything that no rank of `map` holds, by tensor; tensors that are whole are left out.
///
/// Cost     that of prove_coverage().
/// Source   own; docs/design/layout.md, "Packed states".
[[nodiscard]] std::vector<Hole> holes_of(const ShardMap& map);

}  // namespace dynatrain

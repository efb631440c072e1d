#include "dynatrain/base/hash.hpp"
#include "dynatrain/layout/shard_map.hpp"

#include "layout/cut.hpp"
#include "layout/describe.hpp"
#include <algorithm>
#include <utility>

namespace dynatrain {
namespace {

Shape extents_of(const std::vector<DimIntervals>& held) {
  Shape extents = Dims::filled(static_cast<int>(held.size()), 0);
  for (int d = 0; d < extents.rank(); ++d) {
    for (const Interval& interval : held[static_cast<std::size_t>(d)]) {
      extents[d] += interval.size();
    }
  }
  return extents;
}

/// The boxes of a product of intervals, row-major, hence sorted, each with its place in a dense
/// buffer of the product's extents.
std::vector<Fragment> product_of(const std::vector<DimIntervals>& held) {
  const Strides strides = row_major_strides(extents_of(held));
  const int rank = strides.rank();
  std::vector<Fragment> fragments{{{Dims::filled(rank, 0), Dims::filled(rank, 0)}, {0, strides}}};
  for (int d = 0; d < rank; ++d) {
    std::vector<Fragment> wider;
    for (const Fragment& prefix : fragments) {
      std::int64_t local_begin = 0;
      for (const Interval& interval : held[static_cast<std::size_t>(d)]) {
        Fragment next = prefix;
        next.box.begin[d] = interval.begin;
        next.box.end[d] = interval.end;
        next.view.offset_elems += local_begin * strides[d];
        local_begin += interval.size();
        wider.push_back(next);
      }
    }
    fragments = std::move(wider);
  }
  return fragments;
}

class CompactSharding final : public Sharding {
 public:
  CompactSharding(Mesh mesh, std::vector<Placement> placements)
      : mesh_(std::move(mesh)), placements_(std::move(placements)) {
    places_.reserve(mesh_.ranks.size());
    for (std::size_t i = 0; i < mesh_.ranks.size(); ++i) {
      places_.push_back({mesh_.ranks[i], static_cast<std::int64_t>(i)});
    }
    std::ranges::sort(places_, {}, &Place::rank);
    replica_offsets_ = offsets_along(Placement::Kind::kReplicate);
    shard_offsets_ = offsets_along(Placement::Kind::kShard);
    hash_ = compute_hash();
  }

  [[nodiscard]] std::vector<Fragment> fragments(const Shape& shape, int rank) const override {
    const Place* place = find_place(rank);
    return place == nullptr ? std::vector<Fragment>{} : product_of(held_at(shape, place->index));
  }

  [[nodiscard]] std::vector<OwnedBox> owned_boxes(const Shape& shape) const override {
    std::vector<OwnedBox> owned;
    for (const std::int64_t shard : shard_offsets_) {
      std::vector<int> ranks;
      ranks.reserve(replica_offsets_.size());
      for (const std::int64_t replica : replica_offsets_) {
        ranks.push_back(mesh_.ranks[static_cast<std::size_t>(shard + replica)]);
      }
      std::ranges::sort(ranks);
      for (const Fragment& fragment : product_of(held_at(shape, shard))) {
        owned.push_back({fragment.box, ranks});
      }
    }
    std::ranges::sort(owned, {}, &OwnedBox::box);
    return owned;
  }

  [[nodiscard]] std::vector<int> ranks() const override {
    std::vector<int> ranks;
    ranks.reserve(places_.size());
    for (const Place& place : places_) {
      ranks.push_back(place.rank);
    }
    return ranks;
  }

  [[nodiscard]] std::uint64_t hash() const override { return hash_; }

  [[nodiscard]] std::string misfit(const Shape& shape) const override {
    return cut_misfit(shape, mesh_.shape, placements_);
  }

  [[nodiscard]] std::optional<Shape> local_shape(const Shape& shape, int rank) const override {
    const Place* place = find_place(rank);
    if (place == nullptr) {
      return std::nullopt;
    }
    return extents_of(held_at(shape, place->index));
  }

 private:
  struct Place {
    int rank = 0;
    std::int64_t index = 0;  ///< in the row-major mesh
  };

  [[nodiscard]] const Place* find_place(int rank) const {
    const auto found = std::ranges::lower_bound(places_, rank, {}, &Place::rank);
    return found != places_.end() && found->rank == rank ? &*found : nullptr;
  }

  [[nodiscard]] std::vector<DimIntervals> held_at(const Shape& shape, std::int64_t index) const {
    return local_intervals(shape, mesh_.shape, mesh_coordinate(mesh_.shape, index), placements_);
  }

  /// Mesh indices of the coordinates that are 0 in every mesh dimension not placed as `kind`.
  [[nodiscard]] std::vector<std::int64_t> offsets_along(Placement::Kind kind) const {
    std::vector<std::int64_t> offsets{0};
    std::int64_t stride = 1;
    for (std::size_t i = mesh_.shape.size(); i-- > 0;) {
      if (placements_[i].kind == kind) {
        const std::size_t count = offsets.size();
        for (int step = 1; step < mesh_.shape[i]; ++step) {
          for (std::size_t k = 0; k < count; ++k) {
            offsets.push_back(offsets[k] + step * stride);
          }
        }
      }
      stride *= mesh_.shape[i];
    }
    return offsets;
  }

  [[nodiscard]] std::uint64_t compute_hash() const {
    Hasher hasher;
    hasher.add("compact");
    hasher.add(mesh_.shape.size());
    for (const int extent : mesh_.shape) {
      hasher.add(extent);
    }
    for (const int rank : mesh_.ranks) {
      hasher.add(rank);
    }
    for (const Placement& placement : placements_) {
      hasher.add(static_cast<int>(placement.kind));
      hasher.add(placement.dim);
      hasher.add(placement.split_factor);
    }
    return hasher.digest();
  }

  Mesh mesh_;
  std::vector<Placement> placements_;
  std::vector<Place> places_;  ///< sorted by rank
  std::vector<std::int64_t> replica_offsets_;
  std::vector<std::int64_t> shard_offsets_;
  std::uint64_t hash_ = 0;
};

}  // namespace

std::optional<Shape> Sharding::local_shape(const Shape& /*shape*/, int /*rank*/) const {
  return std::nullopt;
}

std::shared_ptr<const Sharding> make_compact_sharding(Mesh mesh,
                                                      std::vector<Placement> placements) {
  mesh.check();
  if (placements.size() != mesh.shape.size()) {
    refuse_map("cannot place a tensor on " + describe(mesh),
               "there are " + std::to_string(placements.size()) + " placements " +
                   describe(placements) + " for " + std::to_string(mesh.shape.size()) +
                   " mesh dimensions",
               "give one placement for each mesh dimension");
  }
  for (Placement& placement : placements) {
    if (placement.kind == Placement::Kind::kReplicate) {
      placement = {};  // one way to say it, one hash
    }
  }
  return std::make_shared<CompactSharding>(std::move(mesh), std::move(placements));
}

std::shared_ptr<const Sharding> make_replicated_sharding(std::vector<int> ranks) {
  std::ranges::sort(ranks);
  const int size = static_cast<int>(ranks.size());
  return make_compact_sharding({{size}, std::move(ranks)}, {{}});
}

}  // namespace dynatrain

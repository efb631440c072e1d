#include "dynatrain/base/hash.hpp"
#include "dynatrain/layout/shard_map.hpp"

#include "layout/describe.hpp"
#include "layout/owned.hpp"
#include <algorithm>
#include <utility>

namespace dynatrain {
namespace {

using Parts = std::vector<std::shared_ptr<const Sharding>>;

class UnionSharding final : public Sharding {
 public:
  explicit UnionSharding(Parts parts) : parts_(std::move(parts)) {
    for (const auto& part : parts_) {
      for (const int rank : part->ranks()) {
        const auto [row, is_new] = part_of_rank_.try_emplace(rank, part.get());
        if (!is_new) {
          refuse_map("cannot join shardings of one tensor",
                     "rank " + std::to_string(rank) + " takes part in two of them",
                     "let every rank hold the tensor in one way");
        }
      }
    }
  }

  [[nodiscard]] std::vector<Fragment> fragments(const Shape& shape, int rank) const override {
    const Sharding* part = find_part(rank);
    return part == nullptr ? std::vector<Fragment>{} : part->fragments(shape, rank);
  }

  [[nodiscard]] std::vector<OwnedBox> owned_boxes(const Shape& shape) const override {
    std::vector<OwnedBox> owned;
    for (const auto& part : parts_) {
      std::ranges::move(part->owned_boxes(shape), std::back_inserter(owned));
    }
    return group_by_box(std::move(owned));
  }

  [[nodiscard]] std::vector<int> ranks() const override {
    std::vector<int> ranks;
    ranks.reserve(part_of_rank_.size());
    for (const auto& [rank, part] : part_of_rank_) {
      ranks.push_back(rank);
    }
    return ranks;
  }

  [[nodiscard]] std::uint64_t hash() const override {
    Hasher hasher;
    hasher.add("union");
    for (const auto& part : parts_) {
      hasher.add(part->hash());
    }
    return hasher.digest();
  }

  [[nodiscard]] std::string misfit(const Shape& shape) const override {
    for (const auto& part : parts_) {
      if (std::string why = part->misfit(shape); !why.empty()) {
        return why;
      }
    }
    return {};
  }

  [[nodiscard]] std::optional<Shape> local_shape(const Shape& shape, int rank) const override {
    const Sharding* part = find_part(rank);
    return part == nullptr ? std::nullopt : part->local_shape(shape, rank);
  }

 private:
  [[nodiscard]] const Sharding* find_part(int rank) const {
    const auto found = part_of_rank_.find(rank);
    return found == part_of_rank_.end() ? nullptr : found->second;
  }

  Parts parts_;
  std::map<int, const Sharding*> part_of_rank_;
};

}  // namespace

std::shared_ptr<const Sharding> make_union_sharding(
    std::vector<std::shared_ptr<const Sharding>> parts) {
  // Sorted, so that the same parts in any order are the same sharding with the same hash.
  std::ranges::sort(parts, {}, [](const auto& part) { return part->ranks(); });
  if (parts.size() == 1) {
    return parts.front();
  }
  return std::make_shared<UnionSharding>(std::move(parts));
}

}  // namespace dynatrain

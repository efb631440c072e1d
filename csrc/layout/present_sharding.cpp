#include "dynatrain/base/hash.hpp"
#include "dynatrain/layout/shard_map.hpp"

#include <algorithm>
#include <utility>

namespace dynatrain {
namespace {

class PresentSharding final : public Sharding {
 public:
  PresentSharding(std::shared_ptr<const Sharding> whole, int num_present)
      : whole_(std::move(whole)), num_present_(num_present) {}

  [[nodiscard]] std::vector<Fragment> fragments(const Shape& shape, int rank) const override {
    return is_present(rank) ? whole_->fragments(shape, rank) : std::vector<Fragment>{};
  }

  [[nodiscard]] std::vector<OwnedBox> owned_boxes(const Shape& shape) const override {
    std::vector<OwnedBox> owned = whole_->owned_boxes(shape);
    for (OwnedBox& box : owned) {
      std::erase_if(box.ranks, [this](int rank) { return !is_present(rank); });
    }
    std::erase_if(owned, [](const OwnedBox& box) { return box.ranks.empty(); });
    return owned;
  }

  [[nodiscard]] std::vector<int> ranks() const override {
    std::vector<int> ranks = whole_->ranks();
    std::erase_if(ranks, [this](int rank) { return !is_present(rank); });
    return ranks;
  }

  [[nodiscard]] std::uint64_t hash() const override {
    Hasher hasher;
    hasher.add("present");
    hasher.add(whole_->hash());
    hasher.add(static_cast<std::uint64_t>(num_present_));
    return hasher.digest();
  }

  [[nodiscard]] std::string misfit(const Shape& shape) const override {
    return whole_->misfit(shape);
  }

  [[nodiscard]] std::optional<Shape> local_shape(const Shape& shape, int rank) const override {
    return is_present(rank) ? whole_->local_shape(shape, rank) : std::nullopt;
  }

 private:
  [[nodiscard]] bool is_present(int rank) const { return rank < num_present_; }

  std::shared_ptr<const Sharding> whole_;
  int num_present_;
};

}  // namespace

std::shared_ptr<const Sharding> make_present_sharding(std::shared_ptr<const Sharding> whole,
                                                      int num_present) {
  const std::vector<int> ranks = whole->ranks();
  if (ranks.empty() || ranks.back() < num_present) {
    return whole;
  }
  return std::make_shared<PresentSharding>(std::move(whole), num_present);
}

}  // namespace dynatrain

#pragma once

#include <compare>
#include <cstdint>
#include <functional>

namespace dynatrain {

/// An index that cannot be mixed up with an index of another kind.
template <class Tag>
struct StrongId {
  std::int32_t value = -1;

  constexpr StrongId() = default;
  constexpr explicit StrongId(std::int64_t index) : value(static_cast<std::int32_t>(index)) {}
  [[nodiscard]] constexpr std::size_t index() const { return static_cast<std::size_t>(value); }
  friend constexpr auto operator<=>(StrongId, StrongId) = default;
};

/// A logical tensor within one pair of shard maps that agree on names (see layout/shard_map.hpp).
using TensorId = StrongId<struct TensorIdTag>;
/// A contiguous memory region named by descriptors; its address is patched in at commit.
using BufferId = StrongId<struct BufferIdTag>;

}  // namespace dynatrain

template <class Tag>
struct std::hash<dynatrain::StrongId<Tag>> {
  std::size_t operator()(dynatrain::StrongId<Tag> id) const noexcept {
    return std::hash<std::int32_t>{}(id.value);
  }
};

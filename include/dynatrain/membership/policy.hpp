#pragma once

#include "dynatrain/membership/world.hpp"

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

namespace dynatrain::membership {

/// What the script of a member says to a Consult: the layout that it wants for those who are there.
struct Advice {
  std::int64_t number = 0;  ///< of the Consult
  std::string layout;       ///< empty: to wait until others are there
  int world_size = 0;       ///< of `layout`
  std::string why;          ///< where it could not say: what went wrong

  friend bool operator==(const Advice&, const Advice&) = default;
};

/// A layout that the members who are there have refused, as often as the options have it.
struct RefusedLayout {
  std::string layout;
  std::string why;

  friend bool operator==(const RefusedLayout&, const RefusedLayout&) = default;
};

/// What a policy chooses from.
struct PolicyInput {
  std::vector<MemberId> available;  ///< in the order in which they joined; nobody who leaves
  World present;                    ///< may name members that are not available
  std::string wish;                 ///< the layout that the operator asked for, or empty
  std::optional<Advice> advice = std::nullopt;  ///< of the script, on these members and this world
  /// Since membership or the wish last changed.
  std::vector<RefusedLayout> refused = {};  // NOLINT(readability-redundant-member-init)
};

/// The world to go to; no members means that none can stand, and `why` says what is missing.
struct PolicyChoice {
  std::string layout;
  std::vector<MemberId> members;
  std::string why;

  friend bool operator==(const PolicyChoice&, const PolicyChoice&) = default;
};

/// Chooses the next world. A pure function: equal inputs give equal choices.
using Policy = std::function<PolicyChoice(const PolicyInput&)>;

struct LayoutChoice {
  std::string layout;
  int world_size = 0;
};

/// Takes the wished layout when enough members are available, else the one that the script advises,
/// which need not be among `layouts`, else the first of `layouts` for which there are. What was
/// refused is passed over; in place of a refused wish or advice the present world stays, where all
/// its members are available. Members of the present world stay, in their order; others fill up as
/// they joined.
/// Errors   LayoutError when the list is empty, names a layout twice, or a world size is below 1.
[[nodiscard]] Policy first_that_fits(std::vector<LayoutChoice> layouts);

}  // namespace dynatrain::membership

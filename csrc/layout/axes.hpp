#pragma once

#include "dynatrain/layout/layout.hpp"

#include <array>
#include <string_view>

namespace dynatrain {

/// What an axis is called and where its size lies.
struct AxisField {
  std::string_view name;
  int LayoutSpec::* size;
};

/// One row per Axis, in the order of the enumeration.
inline constexpr std::array<AxisField, 8> kAxes{{{"pp", &LayoutSpec::pp},
                                                 {"dp_replicate", &LayoutSpec::dp_replicate},
                                                 {"dp_shard", &LayoutSpec::dp_shard},
                                                 {"cp", &LayoutSpec::cp},
                                                 {"tp", &LayoutSpec::tp},
                                                 {"ep", &LayoutSpec::ep},
                                                 {"etp", &LayoutSpec::etp},
                                                 {"vpp", &LayoutSpec::vpp}}};

[[nodiscard]] constexpr const AxisField& axis_field(Axis axis) {
  return kAxes[static_cast<std::size_t>(axis)];
}

}  // namespace dynatrain

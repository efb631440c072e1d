#pragma once

#include "dynatrain/membership/messages.hpp"
#include "dynatrain/membership/worker.hpp"
#include "dynatrain/membership/world.hpp"

#include <array>
#include <string_view>

/// How enumerators are called in text.
namespace dynatrain::membership {

template <class Enum>
struct Names;

template <>
struct Names<ChangeKind> {
  static constexpr std::array<std::string_view, 2> kAll{"planned", "recovery"};
};
template <>
struct Names<Holding> {
  static constexpr std::array<std::string_view, 4> kAll{"absent", "nothing", "live", "snapshot"};
};
template <>
struct Names<Stage> {
  static constexpr std::array<std::string_view, 5> kAll{
      "none", "prepared", "promised", "agreed", "voted"};
};
template <>
struct Names<Activity> {
  static constexpr std::array<std::string_view, 4> kAll{"idle", "training", "broken", "halted"};
};
template <>
struct Names<EndReason> {
  static constexpr std::array<std::string_view, 9> kAll{"released",
                                                        "finished",
                                                        "grace-over",
                                                        "over",
                                                        "refused",
                                                        "lost",
                                                        "undecided",
                                                        "abandoned",
                                                        "state-gone"};
};

}  // namespace dynatrain::membership

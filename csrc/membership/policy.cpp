#include "dynatrain/membership/policy.hpp"

#include "dynatrain/base/error.hpp"

#include <algorithm>
#include <array>
#include <optional>
#include <set>
#include <string>
#include <utility>

namespace dynatrain::membership {
namespace {

void check_layouts(const std::vector<LayoutChoice>& layouts) {
  const auto refuse = [](const std::string& why) {
    throw LayoutError("membership: cannot use this list of layouts\n  " + why +
                      "\n  nothing was started\n  name each layout once, with its world size");
  };
  if (layouts.empty()) {
    refuse("it is empty");
  }
  std::set<std::string> names;
  for (const LayoutChoice& choice : layouts) {
    if (choice.world_size < 1) {
      refuse("'" + choice.layout + "' has world size " + std::to_string(choice.world_size));
    }
    if (!names.insert(choice.layout).second) {
      refuse("'" + choice.layout + "' is in it twice");
    }
  }
}

std::vector<MemberId> members_for(const PolicyInput& input, std::size_t world_size) {
  const std::set<MemberId> available(input.available.begin(), input.available.end());
  std::vector<MemberId> members;
  std::set<MemberId> taken;
  const auto take = [&](MemberId id) {
    if (members.size() < world_size && available.contains(id) && taken.insert(id).second) {
      members.push_back(id);
    }
  };
  std::ranges::for_each(input.present.members, take);
  std::ranges::for_each(input.available, take);
  return members;
}

bool fits(const LayoutChoice& choice, const PolicyInput& input) {
  return static_cast<std::size_t>(choice.world_size) <= input.available.size();
}

/// Why a layout was refused, or null.
const std::string* refusal_of(const std::string& layout, const PolicyInput& input) {
  const auto found = std::ranges::find(input.refused, layout, &RefusedLayout::layout);
  return found == input.refused.end() ? nullptr : &found->why;
}

std::string in_words(const RefusedLayout& refused) {
  return "the change to '" + refused.layout + "' is refused until members come or go, " +
         "or another layout is wished for: " + refused.why;
}

/// The layout that somebody wants, or why it cannot be taken; neither where nobody wants any.
struct Preference {
  std::optional<LayoutChoice> choice = std::nullopt;
  std::string why;
  bool is_refused = false;
};

Preference taken_if_it_fits(const std::string& whose,
                            const LayoutChoice& choice,
                            const PolicyInput& input) {
  if (!fits(choice, input)) {
    return {std::nullopt,
            whose + " layout '" + choice.layout + "' needs " + std::to_string(choice.world_size) +
                " members, " + std::to_string(input.available.size()) + " are available"};
  }
  if (const std::string* const why = refusal_of(choice.layout, input)) {
    return {std::nullopt, in_words({choice.layout, *why}), true};
  }
  return {choice, {}};
}

Preference of_operator(const std::vector<LayoutChoice>& layouts, const PolicyInput& input) {
  if (input.wish.empty()) {
    return {};
  }
  const auto found = std::ranges::find(layouts, input.wish, &LayoutChoice::layout);
  if (found == layouts.end()) {
    return {std::nullopt, "the wished layout '" + input.wish + "' is not in the list of layouts"};
  }
  return taken_if_it_fits("the wished", *found, input);
}

Preference of_script(const PolicyInput& input) {
  if (!input.advice) {
    return {};
  }
  if (!input.advice->why.empty()) {
    return {std::nullopt, "the script's policy failed: " + input.advice->why};
  }
  return taken_if_it_fits("the script's", {input.advice->layout, input.advice->world_size}, input);
}

/// The first that can be taken, with what was refused before it.
Preference first_of(const std::vector<LayoutChoice>& layouts, const PolicyInput& input) {
  Preference found;
  for (const LayoutChoice& each : layouts) {
    if (!fits(each, input)) {
      continue;
    }
    if (const std::string* const why = refusal_of(each.layout, input)) {
      found.why = found.why.empty() ? in_words({each.layout, *why}) : found.why;
      continue;
    }
    found.choice = each;
    return found;
  }
  if (found.why.empty()) {
    const int least = std::ranges::min(layouts, {}, &LayoutChoice::world_size).world_size;
    found.why = std::to_string(input.available.size()) +
                " members are available, the smallest layout needs " + std::to_string(least);
  }
  return found;
}

/// Whether the present world can stay as it is.
bool stands(const PolicyInput& input) {
  const std::set<MemberId> available(input.available.begin(), input.available.end());
  return !input.present.members.empty() && refusal_of(input.present.layout, input) == nullptr &&
         std::ranges::all_of(input.present.members,
                             [&](MemberId id) { return available.contains(id); });
}

PolicyChoice choose(const std::vector<LayoutChoice>& layouts, const PolicyInput& input) {
  PolicyChoice choice;
  const std::array preferences{
      of_operator(layouts, input), of_script(input), first_of(layouts, input)};
  for (const Preference& each : preferences) {
    choice.why = each.why.empty() ? choice.why : each.why;
    if (each.is_refused && stands(input)) {
      return PolicyChoice{input.present.layout, input.present.members, choice.why};
    }
    if (!each.choice) {
      continue;
    }
    if (each.choice->layout.empty()) {
      return PolicyChoice{{}, {}, "the script's policy waits for others to come or go"};
    }
    choice.layout = each.choice->layout;
    choice.members = members_for(input, static_cast<std::size_t>(each.choice->world_size));
    return choice;
  }
  return choice;
}

}  // namespace

Policy first_that_fits(std::vector<LayoutChoice> layouts) {
  check_layouts(layouts);
  return
      [layouts = std::move(layouts)](const PolicyInput& input) { return choose(layouts, input); };
}

}  // namespace dynatrain::membership

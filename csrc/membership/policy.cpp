#include "dynatrain/membership/policy.hpp"

#include "dynatrain/base/error.hpp"

#include <algorithm>
#include <set>
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

PolicyChoice choose(const std::vector<LayoutChoice>& layouts, const PolicyInput& input) {
  const auto fits = [&](const LayoutChoice& choice) {
    return static_cast<std::size_t>(choice.world_size) <= input.available.size();
  };
  const auto wished = std::ranges::find(layouts, input.wish, &LayoutChoice::layout);
  const auto found =
      wished != layouts.end() && fits(*wished) ? wished : std::ranges::find_if(layouts, fits);
  PolicyChoice choice;
  if (found == layouts.end()) {
    const int least = std::ranges::min(layouts, {}, &LayoutChoice::world_size).world_size;
    choice.why = std::to_string(input.available.size()) +
                 " members are available, the smallest layout needs " + std::to_string(least);
    return choice;
  }
  if (!input.wish.empty() && found != wished) {
    choice.why = wished == layouts.end()
                     ? "the wished layout '" + input.wish + "' is not in the list of layouts"
                     : "the wished layout '" + input.wish + "' needs " +
                           std::to_string(wished->world_size) + " members, " +
                           std::to_string(input.available.size()) + " are available";
  }
  choice.layout = found->layout;
  choice.members = members_for(input, static_cast<std::size_t>(found->world_size));
  return choice;
}

}  // namespace

Policy first_that_fits(std::vector<LayoutChoice> layouts) {
  check_layouts(layouts);
  return
      [layouts = std::move(layouts)](const PolicyInput& input) { return choose(layouts, input); };
}

}  // namespace dynatrain::membership

#include "plan/bounds.hpp"

#include "dynatrain/plan/plan.hpp"

#include <algorithm>

namespace dynatrain {

std::int64_t lacking_elems(const std::vector<Fragment>& held, const std::vector<Fragment>& needed) {
  std::int64_t elems = 0;
  for (const Fragment& need : needed) {
    elems += need.box.num_elements();
    for (const Fragment& own : held) {
      if (const auto common = intersect(need.box, own.box)) {
        elems -= common->num_elements();
      }
    }
  }
  return elems;
}

double time_bound_seconds(const Traffic& traffic, int num_stages, const Topology& topology) {
  const auto wire_bytes = static_cast<double>(std::max(traffic.sent_bytes, traffic.received_bytes));
  const auto copied_bytes = static_cast<double>(traffic.kept_bytes - traffic.adoptable_bytes);
  return wire_bytes / topology.link_bytes_per_second +
         static_cast<double>(num_stages) * topology.stage_latency_seconds +
         copied_bytes / topology.memory_bytes_per_second;
}

}  // namespace dynatrain

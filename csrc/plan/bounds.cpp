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

LinkTraffic link_traffic(const Plan& plan, const DecisionRecord& record) {
  const int own_node = record.node_of(plan.rank);
  LinkTraffic links;
  for (const PairList& list : plan.sends) {
    const bool is_near = record.node_of(list.peer) == own_node;
    (is_near ? links.near_sent_bytes : links.far_sent_bytes) += list.size_bytes;
  }
  for (const PairList& list : plan.receives) {
    const bool is_near = record.node_of(list.peer) == own_node;
    (is_near ? links.near_received_bytes : links.far_received_bytes) += list.size_bytes;
  }
  return links;
}

double time_bound_seconds(const Traffic& traffic,
                          const LinkTraffic& links,
                          const Topology& topology) {
  const std::int64_t near_bytes = std::max(links.near_sent_bytes, links.near_received_bytes);
  const std::int64_t far_bytes = std::max(links.far_sent_bytes, links.far_received_bytes);
  const double wire_seconds =
      std::max(static_cast<double>(near_bytes) / topology.node_link_bytes_per_second,
               static_cast<double>(far_bytes) / topology.link_bytes_per_second);
  const auto copied_bytes = static_cast<double>(traffic.kept_bytes - traffic.adoptable_bytes);
  return std::max(wire_seconds > 0 ? wire_seconds + topology.stage_latency_seconds : 0,
                  copied_bytes / topology.memory_bytes_per_second);
}

}  // namespace dynatrain

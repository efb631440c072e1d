#pragma once

#include "dynatrain/membership/ledger.hpp"
#include "dynatrain/membership/text.hpp"
#include "dynatrain/membership/world.hpp"

#include "torch/bind.hpp"
#include <algorithm>
#include <cstdint>
#include <string>
#include <variant>
#include <vector>

/// Records of a ledger, and the worlds in them, as Python has them.
namespace dynatrain::binding {

inline std::vector<std::uint64_t> values_of(const std::vector<membership::MemberId>& ids) {
  std::vector<std::uint64_t> out(ids.size());
  std::ranges::transform(ids, out.begin(), [](membership::MemberId id) { return id.value; });
  return out;
}

inline py::dict world_dict(const membership::World& world) {
  return py::dict(py::arg("epoch") = world.epoch,
                  py::arg("layout") = world.layout,
                  py::arg("members") = values_of(world.members),
                  py::arg("version") = world.version);
}

inline py::tuple record(const membership::MemberJoined& one) {
  return py::make_tuple("joined", one.id.value, one.host, one.machine);
}
inline py::tuple record(const membership::MemberLeaves& one) {
  return py::make_tuple("leaves", one.id.value);
}
inline py::tuple record(const membership::MemberReleased& one) {
  return py::make_tuple("released", one.id.value);
}
inline py::tuple record(const membership::MemberLost& one) {
  return py::make_tuple("lost", one.id.value, one.why);
}
inline py::tuple record(const membership::LayoutWished& one) {
  return py::make_tuple("wished", one.layout);
}
inline py::tuple record(const membership::AttemptBegun& one) {
  return py::make_tuple("begun", one.attempt);
}
inline py::tuple record(const membership::AttemptAborted& one) {
  return py::make_tuple("aborted", one.attempt, one.why);
}
inline py::tuple record(const membership::AttemptCommitted& one) {
  return py::make_tuple("committed", one.attempt, world_dict(one.world));
}
inline py::tuple record(const membership::WorldHalted& one) {
  return py::make_tuple("halted", one.epoch, one.why);
}
inline py::tuple record(const membership::JobFinished& one) {
  return py::make_tuple("finished", one.epoch);
}

/// A record of a ledger: its kind, and what is in it.
inline py::tuple read_record(const std::string& line) {
  return std::visit([](const auto& one) { return record(one); },
                    membership::decode<membership::Record>(line));
}

}  // namespace dynatrain::binding

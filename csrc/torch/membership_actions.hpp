#pragma once

#include "dynatrain/membership/coordinator.hpp"
#include "dynatrain/membership/text.hpp"
#include "dynatrain/membership/worker.hpp"

#include "torch/bind.hpp"
#include <string>
#include <variant>
#include <vector>

/// What the machines of membership ask for, as Python has it.
namespace dynatrain::binding {

/// What a machine asks for: its name, then its facts in the order of the C++ struct.
inline py::tuple action(const membership::Persist& each) {
  return py::make_tuple("persist", membership::encode(each.record));
}
inline py::tuple action(const membership::Publish& each) {
  return py::make_tuple("publish", each.description.attempt, membership::encode(each.description));
}
inline py::tuple action(const membership::Send& each) {
  return py::make_tuple("send", each.to.value, membership::encode(each.message));
}
inline py::tuple action(const membership::Abdicate& each) {
  return py::make_tuple("abdicate", each.why);
}
inline py::tuple action(const membership::Consult& each) {
  return py::make_tuple("consult", each.number, each.to.value);
}
inline py::tuple action(const membership::Tell& each) {
  return py::make_tuple("tell", membership::encode(each.message));
}
inline py::tuple action(const membership::Train& each) {
  return py::make_tuple("train", each.epoch, each.version);
}
inline py::tuple action(const membership::RunPrepare& each) {
  return py::make_tuple("prepare", each.attempt);
}
inline py::tuple action(const membership::RunSwitch& each) {
  return py::make_tuple("switch", each.attempt, each.version);
}
inline py::tuple action(const membership::Discard& each) {
  return py::make_tuple("discard", each.attempt);
}
inline py::tuple action(const membership::Install& each) {
  return py::make_tuple("install", each.attempt, each.epoch, each.version);
}
inline py::tuple action(const membership::Retire& each) {
  return py::make_tuple("retire", each.attempt, each.version);
}
inline py::tuple action(const membership::ForgetCopies& /*each*/) {
  return py::make_tuple("forget");
}
inline py::tuple action(const membership::StopStep& each) {
  return py::make_tuple("stop", each.epoch, each.why);
}
inline py::tuple action(const membership::StandStill& each) {
  return py::make_tuple("stand", each.why, each.is_gone);
}
inline py::tuple action(const membership::FindVersions& /*each*/) {
  return py::make_tuple("search");
}
inline py::tuple action(const membership::End& each) {
  return py::make_tuple("end", std::string(membership::end_reason_name(each.reason)), each.why);
}

template <class Action>
py::list actions(const std::vector<Action>& made) {
  py::list out;
  for (const Action& each : made) {
    out.append(std::visit([](const auto& one) { return action(one); }, each));
  }
  return out;
}

}  // namespace dynatrain::binding

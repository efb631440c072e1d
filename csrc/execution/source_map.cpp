#include "execution/source_map.hpp"

#include "dynatrain/base/error.hpp"
#include "dynatrain/base/log.hpp"

#include <algorithm>
#include <exception>
#include <set>
#include <string>

namespace dynatrain {
namespace {

std::vector<std::pair<int, std::uint64_t>> lists_of(const Plan& plan) {
  std::vector<std::pair<int, std::uint64_t>> lists;
  for (const std::vector<PairList>* pairs : {&plan.sends, &plan.receives}) {
    for (const PairList& list : *pairs) {
      lists.emplace_back(list.peer, list.hash);
    }
  }
  return lists;
}

bool is_same(const ExposedBuffer& a, const ExposedBuffer& b) {
  return a.buffer == b.buffer && a.base == b.base && a.size_bytes == b.size_bytes;
}

[[noreturn]] void throw_made_for_another(const Plan& plan, const std::string& what) {
  throw InternalError("execution: rank " + std::to_string(plan.rank) +
                      " was to run over sources that were mapped for other " + what +
                      "\n  nothing was moved; the source state is intact\n  please report this as "
                      "a bug of dynatrain");
}

}  // namespace

void OpenSources::close() noexcept {
  if (one_sided_ == nullptr) {
    return;
  }
  for (void (OneSided::* const end)() : {&OneSided::release, &OneSided::withdraw}) {
    try {
      (one_sided_->*end)();
    } catch (const std::exception& error) {
      log(LogLevel::kWarning, "execution", error.what());
    }
  }
  one_sided_ = nullptr;
}

std::vector<ExposedBuffer> exposed_by(const Plan& plan, const TensorMemory& memory) {
  std::set<TensorId> tensors;
  for (const PairList& list : plan.sends) {
    for (const Move& move : list.moves) {
      tensors.insert(move.tensor);
    }
  }
  std::vector<ExposedBuffer> exposed;
  exposed.reserve(tensors.size());
  for (const TensorId tensor : tensors) {
    DYNATRAIN_CHECK(tensor.index() < memory.base.size() && memory.base[tensor.index()] != nullptr,
                    "execution: the plan sends tensor " + std::to_string(tensor.value) +
                        ", which the source memory does not have");
    exposed.push_back({.buffer = BufferId(tensor.value),
                       .base = memory.base[tensor.index()],
                       .size_bytes = memory.size_bytes[tensor.index()]});
  }
  return exposed;
}

SourceMap make_source_map(OneSided& one_sided,
                          const Plan& plan,
                          const TensorMemory& memory,
                          Deadline deadline) {
  SourceMap map{.lists = lists_of(plan), .exposed = exposed_by(plan, memory), .mapped = {}};
  one_sided.publish(map.exposed);
  for (const PairList& list : plan.receives) {
    for (const Move& move : list.moves) {
      const auto [place, is_new] = map.mapped.try_emplace({list.peer, move.tensor}, nullptr);
      if (is_new) {
        place->second = one_sided.map(list.peer, BufferId(move.tensor.value), deadline);
      }
    }
  }
  return map;
}

void check_made_for(const SourceMap& map, const Plan& plan, const TensorMemory& memory) {
  if (map.lists != lists_of(plan)) {
    throw_made_for_another(plan, "lists of moves");
  }
  if (!std::ranges::equal(map.exposed, exposed_by(plan, memory), is_same)) {
    throw_made_for_another(plan, "addresses");
  }
}

}  // namespace dynatrain

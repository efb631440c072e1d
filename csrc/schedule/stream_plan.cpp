#include "dynatrain/schedule/stream_plan.hpp"

#include "dynatrain/base/checked.hpp"
#include "dynatrain/base/error.hpp"

#include <algorithm>
#include <numeric>
#include <string>

namespace dynatrain {
namespace {

constexpr int kNever = -1;

/// Calls visit(part) for all that this rank reads of its source in a stage.
template <class Visit>
void for_each_read(const Stage& stage, Visit visit) {
  for (const StageMessage& message : stage.sends) {
    std::ranges::for_each(message.parts, visit);
  }
  std::ranges::for_each(stage.locals, visit);
}

/// Calls visit(part) for all that this rank writes of its target in a stage.
template <class Visit>
void for_each_write(const Stage& stage, Visit visit) {
  for (const StageMessage& message : stage.receives) {
    std::ranges::for_each(message.parts, visit);
  }
  std::ranges::for_each(stage.locals, visit);
}

void check(const Storages& storages, std::span<const int> last_reads_of_all) {
  DYNATRAIN_CHECK(storages.of_tensor.size() == last_reads_of_all.size(),
                  "schedule: storages of " + std::to_string(storages.of_tensor.size()) +
                      " tensors for a schedule of " + std::to_string(last_reads_of_all.size()));
  DYNATRAIN_CHECK(std::ranges::all_of(storages.of_tensor,
                                      [&](int storage) {
                                        return storage >= Storages::kNone &&
                                               storage < std::ssize(storages.size_bytes);
                                      }),
                  "schedule: a tensor lies in a storage that there is not");
}

/// Errors: InternalError when this rank reads a tensor of which it holds nothing.
void check_reads(const Schedule& schedule, const Storages& source) {
  for (const Stage& stage : schedule.stages) {
    for_each_read(stage, [&](const Part& part) {
      DYNATRAIN_CHECK(source.of_tensor[part.tensor.index()] != Storages::kNone,
                      "schedule: rank " + std::to_string(schedule.rank) +
                          " is to read a tensor that lies in none of its storages");
    });
  }
}

/// The first stage that writes to each storage of the target; kNever where none does.
std::vector<int> first_writes(const Schedule& schedule, const Storages& target) {
  std::vector<int> first(target.size_bytes.size(), kNever);
  for (std::size_t k = 0; k < schedule.stages.size(); ++k) {
    for_each_write(schedule.stages[k], [&](const Part& part) {
      const int storage = target.of_tensor[part.tensor.index()];
      if (storage != Storages::kNone && first[static_cast<std::size_t>(storage)] == kNever) {
        first[static_cast<std::size_t>(storage)] = static_cast<int>(k);
      }
    });
  }
  return first;
}

/// The last stage in which any rank reads what each storage of the source holds.
std::vector<int> last_reads_of_storages(const Storages& source,
                                        std::span<const int> last_reads_of_all) {
  std::vector<int> last(source.size_bytes.size(), kNever);
  for (std::size_t i = 0; i < last_reads_of_all.size(); ++i) {
    if (const int storage = source.of_tensor[i]; storage != Storages::kNone) {
      int& of_storage = last[static_cast<std::size_t>(storage)];
      of_storage = std::max(of_storage, last_reads_of_all[i]);
    }
  }
  return last;
}

std::int64_t bytes_of(std::span<const int> storages, std::span<const std::int64_t> size_bytes) {
  return std::accumulate(
      storages.begin(), storages.end(), std::int64_t{0}, [&](std::int64_t sum, int storage) {
        return sum + size_bytes[static_cast<std::size_t>(storage)];
      });
}

}  // namespace

Storages storages_of(const ShardMap& map, int rank, std::span<const TensorId> without) {
  Storages storages;
  for (std::size_t i = 0; i < map.num_tensors(); ++i) {
    const TensorId id(static_cast<std::int64_t>(i));
    std::int64_t num_elems = 0;
    for (const Fragment& fragment : map.fragments(id, rank)) {
      num_elems = checked_add(num_elems, fragment.box.num_elements());
    }
    const bool is_held = num_elems > 0 && !std::ranges::binary_search(without, id);
    storages.of_tensor.push_back(is_held ? static_cast<int>(storages.size_bytes.size())
                                         : Storages::kNone);
    if (is_held) {
      storages.size_bytes.push_back(checked_mul(num_elems, map.tensor(id).dtype.size_bytes));
    }
  }
  return storages;
}

std::vector<int> last_reads(const Schedule& schedule, std::size_t num_tensors) {
  std::vector<int> last(num_tensors, kNever);
  for (std::size_t k = 0; k < schedule.stages.size(); ++k) {
    for_each_read(schedule.stages[k],
                  [&](const Part& part) { last[part.tensor.index()] = static_cast<int>(k); });
  }
  return last;
}

StreamPlan make_stream_plan(const Schedule& schedule,
                            std::span<const int> last_reads_of_all,
                            const Storages& source,
                            std::span<const int> kept,
                            const Storages& target) {
  check(source, last_reads_of_all);
  check(target, last_reads_of_all);
  check_reads(schedule, source);
  StreamPlan plan;
  plan.stages.resize(schedule.stages.size());
  std::vector<bool> is_kept(source.size_bytes.size());
  for (const int storage : kept) {
    is_kept[static_cast<std::size_t>(storage)] = true;
  }
  const std::vector<int> last = last_reads_of_storages(source, last_reads_of_all);
  for (std::size_t storage = 0; storage < last.size(); ++storage) {
    if (!is_kept[storage]) {
      const int before = last[storage] + kStagesUntilFreed;
      auto& freed = before < std::ssize(plan.stages)
                        ? plan.stages[static_cast<std::size_t>(before)].freed
                        : plan.freed_last;
      freed.push_back(static_cast<int>(storage));
    }
  }
  const std::vector<int> first = first_writes(schedule, target);
  for (std::size_t storage = 0; storage < first.size(); ++storage) {
    // What nothing is written to is taken for the state all the same.
    const auto before = static_cast<std::size_t>(std::max(first[storage], 0));
    plan.stages[before].taken.push_back(static_cast<int>(storage));
  }
  std::int64_t held =
      std::accumulate(source.size_bytes.begin(), source.size_bytes.end(), std::int64_t{0});
  plan.peak_bytes = held;
  for (StreamStage& stage : plan.stages) {
    held -= bytes_of(stage.freed, source.size_bytes);
    held += bytes_of(stage.taken, target.size_bytes);
    stage.held_bytes = held;
    plan.peak_bytes = std::max(plan.peak_bytes, held);
  }
  return plan;
}

}  // namespace dynatrain

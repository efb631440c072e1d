#include "execution/source_map.hpp"

#include "dynatrain/base/error.hpp"
#include "dynatrain/base/log.hpp"

#include "execution/fragment_finder.hpp"
#include "execution/process_runs.hpp"
#include <algorithm>
#include <exception>
#include <map>
#include <set>
#include <string>
#include <utility>

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

/// What reading a list out of its owner's process costs, beside the bytes that it brings.
class ReadingCost {
 public:
  ReadingCost(const ShardMap& source, int owner) : source_(source), finder_(source, owner) {}

  void add(const Move& move) {
    const std::int64_t elem_bytes = source_.tensor(move.tensor).dtype.size_bytes;
    const Strides& strides = finder_.find(move.tensor, move.box).view.strides;
    cost_ += cost_of_reading(move.box, strides, elem_bytes);
    bytes_ += move.box.num_elements() * elem_bytes;
  }
  /// Errors: DeviceError where messages are faster.
  void check() const {
    if (are_messages_faster(cost_, bytes_)) {
      throw DeviceError("execution: the elements that rank " + std::to_string(finder_.rank()) +
                        " has lie too far apart to be read out of its process\n  nothing was "
                        "moved; messages bring them");
    }
  }

 private:
  const ShardMap& source_;
  FragmentFinder finder_;
  std::int64_t cost_ = 0;
  std::int64_t bytes_ = 0;
};

/// The peers' sources in this process, and why that of some is not among them.
struct MappedPeers {
  std::map<std::pair<int, TensorId>, SourceAddress> mapped;  ///< null: it is not exposed
  std::string problem;

  /// The list of one owner whole, or nothing of it.
  void add(OneSided& one_sided, const PairList& list, const ShardMap& source, Deadline deadline) {
    std::map<std::pair<int, TensorId>, SourceAddress> of_owner;
    ReadingCost cost(source, list.peer);
    try {
      for (const Move& move : list.moves) {
        const auto [place, is_new] = of_owner.try_emplace({list.peer, move.tensor});
        if (is_new) {
          place->second = one_sided.map(list.peer, BufferId(move.tensor.value), deadline);
        }
        if (place->second.process != 0) {
          cost.add(move);
        }
      }
      cost.check();
      mapped.merge(of_owner);
    } catch (const DeviceError& error) {
      problem = error.what();  // the owner is told, and sends it
    }
  }
};

int peer_of(const Plan& plan, const Move& move) {
  return move.src_rank == plan.rank ? move.dst_rank : move.src_rank;
}

/// The hash of a peer's list; 0 where there is none.
std::uint64_t hash_of(const std::vector<PairList>& lists, int peer) {
  const auto found = std::ranges::lower_bound(lists, peer, {}, &PairList::peer);
  return found != lists.end() && found->peer == peer ? found->hash : 0;
}

/// The peers that read in place what `readable` has for them: every reader tells its owners the
/// hash of what it reads so, 0 where it wants it by messages.
std::set<int> agree_on_readers(const Ports& ports,
                               const Plan& reached,
                               const Plan& readable,
                               Deadline deadline) {
  std::vector<Note> reads;
  reads.reserve(reached.receives.size());
  for (const PairList& list : reached.receives) {
    reads.push_back({.peer = list.peer, .words = {hash_of(readable.receives, list.peer)}});
  }
  std::vector<Note> told;
  told.reserve(reached.sends.size());
  for (const PairList& list : reached.sends) {
    told.push_back({.peer = list.peer, .words = {0}});
  }
  exchange_notes(ports, reads, told, deadline);
  std::set<int> readers;
  for (const Note& note : told) {
    const std::uint64_t own = hash_of(readable.sends, note.peer);
    const std::uint64_t theirs = note.words.front();
    if (theirs != 0 && theirs != own) {
      throw_disagreement(reached.rank, note.peer, own, theirs);
    }
    if (theirs != 0) {
      readers.insert(note.peer);
    }
  }
  return readers;
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

DividedSources divide_sources(OneSided& one_sided,
                              const Ports& ports,
                              const SourceInputs& source,
                              Deadline deadline) {
  const Plan& plan = source.plan;
  const auto is_reached = [&](const Move& move) {
    const bool is_local = move.src_rank == move.dst_rank;
    return !is_local && one_sided.reaches(peer_of(plan, move));
  };
  const Plan reached = part_of(plan, source.map, is_reached);
  const Unreadable own = one_sided.publish(exposed_by(reached, source.memory));
  MappedPeers peers;
  for (const PairList& list : reached.receives) {
    peers.add(one_sided, list, source.map, deadline);
  }
  const auto could_be_read = [&](const Move& move) {
    if (move.src_rank == plan.rank) {
      return !std::ranges::binary_search(own.buffers, BufferId(move.tensor.value));
    }
    const auto found = peers.mapped.find({move.src_rank, move.tensor});
    return found != peers.mapped.end() && found->second.base != nullptr;
  };
  const std::set<int> readers =
      agree_on_readers(ports, reached, part_of(reached, source.map, could_be_read), deadline);
  const auto is_in_place = [&](const Move& move) {
    return is_reached(move) && could_be_read(move) &&
           (move.src_rank != plan.rank || readers.contains(move.dst_rank));
  };
  DividedSources made;
  made.plans.in_place = part_of(plan, source.map, is_in_place);
  made.plans.by_messages =
      part_of(plan, source.map, [&](const Move& move) { return !is_in_place(move); });
  made.plans.problem = own.reason.empty() ? peers.problem : own.reason;
  made.map = {.lists = lists_of(made.plans.in_place),
              .exposed = exposed_by(made.plans.in_place, source.memory),
              .mapped = std::move(peers.mapped)};
  return made;
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

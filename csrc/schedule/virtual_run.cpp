#include "dynatrain/schedule/virtual_run.hpp"

#include "dynatrain/base/error.hpp"

#include "schedule/virtual_queue.hpp"
#include <algorithm>
#include <array>
#include <compare>
#include <functional>
#include <queue>
#include <set>
#include <string>
#include <tuple>
#include <utility>

namespace dynatrain {
namespace {

using namespace virtual_time;  // NOLINT(google-build-using-namespace): this file's own

[[noreturn]] void throw_unfit(const std::string& what, const std::string& expected) {
  throw LayoutError("schedule: " + what + "\n  expected " + expected +
                    "\n  nothing was run in virtual time\n  add the schedules of all ranks of one "
                    "switch, each once");
}

void check_speeds(const Topology& topology) {
  for (const double speed : {topology.link_bytes_per_second,
                             topology.node_link_bytes_per_second,
                             topology.memory_bytes_per_second,
                             topology.pack_cost}) {
    if (!(speed > 0)) {
      throw_unfit("a speed or a cost is " + std::to_string(speed), "more than 0");
    }
  }
}

}  // namespace

VirtualRun::VirtualRun(DecisionRecord record,
                       const Topology& topology,
                       std::vector<double> begin_of_rank)
    : record_(std::move(record)), topology_(topology), begin_of_rank_(std::move(begin_of_rank)) {
  check_speeds(topology_);
  for (const double begin : begin_of_rank_) {
    if (!(begin >= 0)) {
      throw_unfit("a rank begins at " + std::to_string(begin) + " s", "0 s or later");
    }
  }
}

double VirtualRun::begin_of(int rank) const {
  if (begin_of_rank_.empty()) {
    return 0;
  }
  if (static_cast<std::size_t>(rank) >= begin_of_rank_.size()) {
    throw_unfit("rank " + std::to_string(rank) + " begins nowhere",
                "the begins of all ranks, or none");
  }
  return begin_of_rank_[static_cast<std::size_t>(rank)];
}

void VirtualRun::add(const Plan& plan, const Schedule& schedule, const ShardMap& map) {
  if (!loads_.empty() && loads_.front().stages.size() != schedule.stages.size()) {
    throw_unfit("rank " + std::to_string(schedule.rank) + " has " +
                    std::to_string(schedule.stages.size()) + " stages",
                std::to_string(loads_.front().stages.size()) + ", as rank " +
                    std::to_string(loads_.front().rank));
  }
  static_cast<void>(record_.node_of(schedule.rank));
  static_cast<void>(begin_of(schedule.rank));
  RankLoad load{.rank = schedule.rank, .stages = {}};
  for (const Stage& stage : schedule.stages) {
    load.stages.push_back(load_of(plan, stage, map));
  }
  loads_.push_back(std::move(load));
}

VirtualRun::StageLoad VirtualRun::load_of(const Plan& plan,
                                          const Stage& stage,
                                          const ShardMap& map) {
  StageLoad load;
  for (const StageMessage& message : stage.sends) {
    load.packed_bytes += message.direct ? 0 : message.size_bytes;
    if (load.sends.empty() || load.sends.back().peer != message.peer) {
      load.sends.push_back({.peer = message.peer, .size_bytes = 0});
    }
    load.sends.back().size_bytes += message.size_bytes;
  }
  for (const StageMessage& message : stage.receives) {
    load.unpacked_bytes += message.direct ? 0 : message.size_bytes;
  }
  for (const Part& part : stage.locals) {
    const bool is_adopted = std::ranges::binary_search(plan.adoptable, part.tensor);
    const std::int64_t elem_bytes = map.tensor(part.tensor).dtype.size_bytes;
    load.copied_bytes += is_adopted ? 0 : (part.end_elem - part.begin_elem) * elem_bytes;
  }
  return load;
}

std::vector<const VirtualRun::RankLoad*> VirtualRun::by_rank() const {
  std::vector<const RankLoad*> ranks;
  for (const RankLoad& load : loads_) {
    const auto index = static_cast<std::size_t>(load.rank);
    ranks.resize(std::max(ranks.size(), index + 1), nullptr);
    if (ranks[index] != nullptr) {
      throw_unfit("rank " + std::to_string(load.rank) + " was added twice", "each rank once");
    }
    ranks[index] = &load;
  }
  return ranks;
}

/// The ranks of a run and how far each has come.
class VirtualRun::Clock {
 public:
  Clock(const VirtualRun& run, std::vector<const RankLoad*> loads)
      : run_(run), loads_(std::move(loads)), ranks_(loads_.size()) {
    int num_nodes = 1;
    for (std::size_t rank = 0; rank < loads_.size(); ++rank) {
      if (loads_[rank] != nullptr) {
        ranks_[rank].node = run.record_.node_of(static_cast<int>(rank));
        ranks_[rank].end = run.begin_of(static_cast<int>(rank));
        ranks_[rank].left_slot.fill(ranks_[rank].end);
      }
      num_nodes = std::max(num_nodes, ranks_[rank].node + 1);
    }
    hosts_.resize(static_cast<std::size_t>(num_nodes));
  }

  void pack(std::size_t stage) {
    for_each_rank([&](Rank& rank, const RankLoad& load) {
      const StageLoad& of_stage = load.stages[stage];
      const double from = rank.left_slot[stage % kNumSlots];
      rank.now = {};
      std::tie(rank.now.pack_begin, rank.now.pack_end) = copy(
          rank, from, packing(of_stage.packed_bytes) + static_cast<double>(of_stage.copied_bytes));
      rank.arrived = rank.sent = rank.now.pack_end;
      rank.now.wire_begin = rank.now.wire_end = rank.now.pack_end;
      rank.has_message = false;
    });
  }

  /// The message that can begin first goes first, so that no link stands still while another one
  /// is waited for.
  void send(std::size_t stage) {
    FirstFirst pending;
    for_each_rank([&](Rank& rank, const RankLoad& load) {
      const std::vector<Message>& sends = load.stages[stage].sends;
      for (std::size_t turn = 0; turn < sends.size(); ++turn) {
        Rank& peer = at(sends[turn].peer, load.rank);
        const double slot_free = peer.left_slot[stage % kNumSlots];
        pending.push({.begin = std::max(rank.now.pack_end, slot_free),
                      .turn = turn,
                      .src = load.rank,
                      .dst = sends[turn].peer,
                      .size_bytes = sends[turn].size_bytes});
      }
    });
    while (!pending.empty()) {
      const Pending next = pending.top();
      pending.pop();
      const std::array claims = claims_of(next);
      const bool can_begin = first_begin(next.begin, claims) <= next.begin;
      if (can_begin) {
        carry(next);
      }
      if (next.heard_by != nullptr) {
        hear_next(next, pending);
      }
      if (!can_begin) {  // a link was taken since
        wait(next, last_free(claims), pending);
      }
    }
  }

  void unpack(std::size_t stage) {
    for_each_rank([&](Rank& rank, const RankLoad& load) {
      Rank::Landing& landing = rank.landing[stage % kNumSlots];
      const auto [begin, end] =
          copy(rank, landing.arrived, packing(load.stages[stage].unpacked_bytes));
      landing.times.unpack_begin = begin;
      landing.times.unpack_end = end;
      rank.left_slot[stage % kNumSlots] = std::max(end, landing.sent);
      rank.end = std::max(rank.end, rank.left_slot[stage % kNumSlots]);
    });
  }

  /// What was packed and sent waits for its turn to be unpacked.
  void land(std::size_t stage) {
    for_each_rank([&](Rank& rank, const RankLoad& /*load*/) {
      rank.landing[stage % kNumSlots] = {
          .arrived = rank.arrived, .sent = rank.sent, .times = rank.now};
    });
  }

  [[nodiscard]] StageTimes times_of(int rank, std::size_t stage) const {
    return ranks_[static_cast<std::size_t>(rank)].landing[stage % kNumSlots].times;
  }
  [[nodiscard]] VirtualTimes times() const {
    VirtualTimes times;
    for (const Rank& rank : ranks_) {
      times.end_of_rank.push_back(rank.end);
      times.seconds = std::max(times.seconds, rank.end);
    }
    return times;
  }

 private:
  struct Rank {
    struct Landing {
      double arrived = 0;
      double sent = 0;
      StageTimes times;
    };
    int node = 0;
    Queue copier;
    std::array<Queue, 2> out;  ///< within the node, between nodes
    std::array<Queue, 2> in;
    std::array<double, kNumSlots> left_slot{};  ///< when the stage that had it has left it
    std::array<Landing, kNumSlots> landing;
    StageTimes now;
    bool has_message = false;
    double sent = 0;
    double arrived = 0;
    double end = 0;
  };
  template <class Work>
  void for_each_rank(const Work& work) {
    for (std::size_t rank = 0; rank < loads_.size(); ++rank) {
      if (loads_[rank] != nullptr) {
        work(ranks_[rank], *loads_[rank]);
      }
    }
  }

  Rank& at(int peer, int of) {
    const auto index = static_cast<std::size_t>(peer);
    if (index >= loads_.size() || loads_[index] == nullptr) {
      throw_unfit("rank " + std::to_string(of) + " sends to rank " + std::to_string(peer) +
                      ", which was not added",
                  "all ranks");
    }
    return ranks_[index];
  }

  [[nodiscard]] static double on_host(double size_bytes, double bytes_per_second) {
    return bytes_per_second > 0 ? size_bytes / bytes_per_second : 0;
  }
  /// As many bytes that are copied alone.
  [[nodiscard]] double packing(std::int64_t size_bytes) const {
    return static_cast<double>(size_bytes) * run_.topology_.pack_cost;
  }

  std::pair<double, double> copy(Rank& rank, double from, double size_bytes) {
    const Topology& speeds = run_.topology_;
    const std::array claims{
        Claim{.queue = &rank.copier, .seconds = size_bytes / speeds.memory_bytes_per_second},
        Claim{.queue = &hosts_[static_cast<std::size_t>(rank.node)],
              .seconds = on_host(size_bytes, speeds.host_memory_bytes_per_second)}};
    const double begin = take(from, claims);
    return {begin, begin + longest(claims)};
  }

  std::array<Claim, 4> claims_of(const Pending& message) {
    const Topology& speeds = run_.topology_;
    Rank& sender = ranks_[static_cast<std::size_t>(message.src)];
    Rank& receiver = ranks_[static_cast<std::size_t>(message.dst)];
    const bool is_far = sender.node != receiver.node;
    const auto size_bytes = static_cast<double>(message.size_bytes);
    const double on_link =
        size_bytes / (is_far ? speeds.link_bytes_per_second : speeds.node_link_bytes_per_second);
    const double on_cores = on_host(size_bytes, speeds.host_bytes_per_second);
    return {Claim{.queue = &sender.out[is_far ? 1 : 0], .seconds = on_link},
            Claim{.queue = &receiver.in[is_far ? 1 : 0], .seconds = on_link},
            Claim{.queue = &hosts_[static_cast<std::size_t>(sender.node)], .seconds = on_cores},
            Claim{.queue = &hosts_[static_cast<std::size_t>(receiver.node)],
                  .seconds = is_far ? on_cores : 0}};
  }

  /// Has a message wait for a queue. Those behind it are not looked at before it is tried again:
  /// else each message that begins would have all others tried that wait for the same link.
  static void wait(Pending message, Queue& queue, FirstFirst& pending) {
    message.begin = 0;
    message.heard_by = nullptr;
    if (queue.heard.empty() || message < *queue.heard.begin()) {
      hear(message, queue, pending);
    } else {
      queue.waiters.push(message);
    }
  }

  static void hear(Pending message, Queue& queue, FirstFirst& pending) {
    queue.heard.insert(message);
    message.begin = queue.free_at;
    message.heard_by = &queue;
    pending.push(message);
  }

  /// One of those that have waited was tried.
  static void hear_next(Pending tried, FirstFirst& pending) {
    Queue& queue = *tried.heard_by;
    tried.begin = 0;
    queue.heard.erase(tried);
    if (queue.waiters.empty()) {
      return;
    }
    const Pending first = queue.waiters.top();
    if (queue.heard.empty() || first < *queue.heard.begin()) {
      queue.waiters.pop();
      hear(first, queue, pending);
    }
  }

  void carry(const Pending& message) {
    const std::array claims = claims_of(message);
    const double begin = take(message.begin, claims);
    const double end = begin + longest(claims);
    const double arrival = end + run_.topology_.stage_latency_seconds;
    Rank& sender = ranks_[static_cast<std::size_t>(message.src)];
    Rank& receiver = ranks_[static_cast<std::size_t>(message.dst)];
    sender.sent = std::max(sender.sent, end);
    receiver.arrived = std::max(receiver.arrived, arrival);
    note_message(sender, begin, end);
    note_message(receiver, begin, arrival);
  }

  static void note_message(Rank& rank, double begin, double end) {
    rank.now.wire_begin = rank.has_message ? std::min(rank.now.wire_begin, begin) : begin;
    rank.now.wire_end = rank.has_message ? std::max(rank.now.wire_end, end) : end;
    rank.has_message = true;
  }

  const VirtualRun& run_;
  std::vector<const RankLoad*> loads_;
  std::vector<Rank> ranks_;
  std::vector<Queue> hosts_;
};

VirtualRun::Clock VirtualRun::ran(int traced, std::vector<StageTimes>& times) const {
  Clock clock(*this, by_rank());
  const std::size_t num_stages = loads_.empty() ? 0 : loads_.front().stages.size();
  const auto unpack = [&](std::size_t stage) {
    clock.unpack(stage);
    if (traced >= 0) {
      times.push_back(clock.times_of(traced, stage));
    }
  };
  for (std::size_t stage = 0; stage < num_stages; ++stage) {
    clock.pack(stage);
    clock.send(stage);
    if (stage > 0) {
      unpack(stage - 1);  // behind the packing of the next one, which needs no message
    }
    clock.land(stage);
  }
  if (num_stages > 0) {
    unpack(num_stages - 1);
  }
  return clock;
}

VirtualTimes VirtualRun::run() const {
  std::vector<StageTimes> none;
  return ran(-1, none).times();
}

std::vector<StageTimes> VirtualRun::times_of(int rank) const {
  const bool is_added =
      std::ranges::any_of(loads_, [rank](const RankLoad& load) { return load.rank == rank; });
  if (!is_added) {
    throw_unfit("rank " + std::to_string(rank) + " was not added", "a rank of the switch");
  }
  std::vector<StageTimes> times;
  static_cast<void>(ran(rank, times));
  return times;
}

}  // namespace dynatrain

#include "dynatrain/base/error.hpp"
#include "dynatrain/plan/plan.hpp"

#include <gtest/gtest.h>

#include "plan/element_oracle.hpp"
#include <string>
#include <vector>

namespace dynatrain {
namespace {

using testing::Draw;
using testing::elements_of;
using testing::holds;
using testing::KnownPair;
using testing::Ownership;

/// The huge ones make a cell of a few elements large enough to be split among its senders.
const std::vector<std::int64_t> kElemSizes{1, 2, 3, 4, 8, 16, 1 << 17, 1 << 19};
constexpr std::uint64_t kNumPairs = 2000;
constexpr std::uint64_t kNumPairsLong = 20000;

/// Two random maps, the plans of all ranks, and the oracle's answer. Nodes are drawn for half of
/// them.
struct Planned {
  explicit Planned(std::uint64_t seed) : Planned(Draw(seed), seed) {}

  std::vector<Move> arriving(int rank) const {
    std::vector<Move> moves = plans[static_cast<std::size_t>(rank)].locals;
    for (const PairList& list : plans[static_cast<std::size_t>(rank)].receives) {
      moves.insert(moves.end(), list.moves.begin(), list.moves.end());
    }
    return moves;
  }

  /// How often each element of each tensor arrives at `rank`.
  std::vector<std::vector<int>> arrivals(int rank) const {
    std::vector<std::vector<int>> counts;
    for (const Ownership& owners : pair.needed) {
      counts.emplace_back(owners.size(), 0);
    }
    for (const Move& move : arriving(rank)) {
      for (const std::size_t e : elements_of(source.tensor(move.tensor).shape, move.box)) {
        ++counts[move.tensor.index()][e];
      }
    }
    return counts;
  }

  KnownPair pair;
  ShardMap source;
  ShardMap target;
  DecisionRecord record;
  std::vector<Plan> plans;

 private:
  Planned(Draw draw, std::uint64_t seed)
      : pair(draw.pair(3, kElemSizes)), source(pair.source), target(pair.target) {
    for (int rank = 0; seed % 2 == 1 && rank < pair.num_ranks; ++rank) {
      record.node_of_rank.push_back(static_cast<int>(draw.number(0, 2)));
    }
    for (int rank = 0; rank < pair.num_ranks; ++rank) {
      plans.push_back(make_plan(source, target, rank, record));
    }
  }
};

/// Calls `check` with `count` random pairs; a failure names the seed that draws the pair again.
template <class Check>
void for_random_pairs(std::uint64_t count, const Check& check) {
  for (std::uint64_t seed = 0; seed < count; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    check(Planned(seed));
    if (::testing::Test::HasFailure()) {
      return;
    }
  }
}

void expect_coverage(const Planned& planned) {
  for (int rank = 0; rank < planned.pair.num_ranks; ++rank) {
    const auto counts = planned.arrivals(rank);
    for (std::size_t t = 0; t < counts.size(); ++t) {
      for (std::size_t e = 0; e < counts[t].size(); ++e) {
        const int wanted = holds(planned.pair.needed[t][e], rank) ? 1 : 0;
        ASSERT_EQ(counts[t][e], wanted) << "rank " << rank << " tensor " << t << " element " << e;
      }
    }
  }
}

void expect_minimality(const Planned& planned) {
  for (int rank = 0; rank < planned.pair.num_ranks; ++rank) {
    std::int64_t lacking_bytes = 0;
    for (std::size_t t = 0; t < planned.pair.needed.size(); ++t) {
      for (std::size_t e = 0; e < planned.pair.needed[t].size(); ++e) {
        const bool is_lacking =
            holds(planned.pair.needed[t][e], rank) && !holds(planned.pair.held[t][e], rank);
        lacking_bytes += is_lacking ? planned.pair.source[t].tensor.dtype.size_bytes : 0;
      }
    }
    const Traffic& traffic = planned.plans[static_cast<std::size_t>(rank)].traffic;
    ASSERT_EQ(traffic.received_bytes, lacking_bytes) << "rank " << rank;
    ASSERT_EQ(traffic.lower_bound_bytes, lacking_bytes) << "rank " << rank;
    for (const Move& move : planned.arriving(rank)) {
      for (const std::size_t e : elements_of(planned.source.tensor(move.tensor).shape, move.box)) {
        const bool is_held = holds(planned.pair.held[move.tensor.index()][e], rank);
        ASSERT_EQ(is_held, move.src_rank == rank) << "rank " << rank << " " << move.box.to_string();
      }
    }
  }
}

void expect_agreement(const Planned& planned) {
  std::size_t num_sends = 0;
  std::size_t num_receives = 0;
  for (const Plan& plan : planned.plans) {
    num_sends += plan.sends.size();
    num_receives += plan.receives.size();
    for (const PairList& list : plan.sends) {
      const Plan& peer = planned.plans[static_cast<std::size_t>(list.peer)];
      const auto mirror = std::ranges::find(peer.receives, plan.rank, &PairList::peer);
      ASSERT_NE(mirror, peer.receives.end()) << plan.rank << " -> " << list.peer;
      ASSERT_EQ(mirror->moves, list.moves) << plan.rank << " -> " << list.peer;
      ASSERT_EQ(mirror->hash, list.hash) << plan.rank << " -> " << list.peer;
      ASSERT_EQ(mirror->size_bytes, list.size_bytes) << plan.rank << " -> " << list.peer;
    }
  }
  ASSERT_EQ(num_sends, num_receives);
}

// Law 1 rests on it: bytes can only be identical if they are taken from a rank that has them.
TEST(Law1Identity, EverySenderHoldsWhatItSends) {
  for_random_pairs(kNumPairs, [](const Planned& planned) {
    for (int rank = 0; rank < planned.pair.num_ranks; ++rank) {
      for (const Move& move : planned.arriving(rank)) {
        const Shape& shape = planned.source.tensor(move.tensor).shape;
        for (const std::size_t e : elements_of(shape, move.box)) {
          ASSERT_TRUE(holds(planned.pair.held[move.tensor.index()][e], move.src_rank));
        }
      }
    }
  });
}

// A missing element would leave uninitialised memory in the new model, a double one a race.
TEST(Law2Coverage, EveryNeededElementArrivesExactlyOnce) {
  for_random_pairs(kNumPairs, expect_coverage);
}

// The same over more pairs than a developer waits for.
TEST(Law2CoverageLong, EveryNeededElementArrivesExactlyOnce) {
  for_random_pairs(kNumPairsLong, expect_coverage);
}

// Moved bytes are the cost of a switch: what a rank holds already must not travel.
TEST(Law3Minimality, ARankReceivesExactlyWhatItNeedsAndLacks) {
  for_random_pairs(kNumPairs, expect_minimality);
}

// The same over more pairs than a developer waits for.
TEST(Law3MinimalityLong, ARankReceivesExactlyWhatItNeedsAndLacks) {
  for_random_pairs(kNumPairsLong, expect_minimality);
}

// Ranks plan alone: if both ends of a pair listed different moves, bytes would land in wrong
// places.
TEST(Law4Agreement, BothEndsOfAPairListTheSameMoves) {
  for_random_pairs(kNumPairs, expect_agreement);
}

// The same over more pairs than a developer waits for.
TEST(Law4AgreementLong, BothEndsOfAPairListTheSameMoves) {
  for_random_pairs(kNumPairsLong, expect_agreement);
}

// Execution turns a move into one strided copy per end; that needs one fragment on either end.
TEST(Law4Agreement, AMoveLiesInOneFragmentOnEitherEnd) {
  for_random_pairs(kNumPairs, [](const Planned& planned) {
    for (int rank = 0; rank < planned.pair.num_ranks; ++rank) {
      for (const Move& move : planned.arriving(rank)) {
        const auto holds_box = [&](const Fragment& f) { return contains(f.box, move.box); };
        ASSERT_EQ(
            std::ranges::count_if(planned.source.fragments(move.tensor, move.src_rank), holds_box),
            1);
        ASSERT_EQ(std::ranges::count_if(planned.target.fragments(move.tensor, rank), holds_box), 1);
      }
    }
  });
}

// The checker is what `dynatrain plan` shows to people: it must not cry wolf.
TEST(CheckPlans, AcceptsEveryPlanOfThePlanner) {
  for_random_pairs(kNumPairs / 4, [](const Planned& planned) {
    EXPECT_EQ(check_plans(planned.source, planned.target, planned.plans),
              std::vector<std::string>{});
  });
}

/// The violations that the checker finds after `spoil` changed one plan of a pair with traffic.
template <class Spoil>
std::vector<std::string> violations_after(const Spoil& spoil) {
  for (std::uint64_t seed = 0;; ++seed) {
    Planned planned(seed);
    for (Plan& plan : planned.plans) {
      if (!plan.receives.empty()) {
        spoil(planned, plan);
        return check_plans(planned.source, planned.target, planned.plans);
      }
    }
  }
}

// A checker that passes everything proves nothing: each kind of damage must be seen.
TEST(CheckPlans, SeesALostMove) {
  EXPECT_NE(violations_after([](Planned&, Plan& plan) { plan.receives[0].moves.pop_back(); }),
            std::vector<std::string>{});
}

TEST(CheckPlans, SeesAMoveThatArrivesTwice) {
  EXPECT_NE(violations_after([](Planned& planned, Plan& plan) {
              PairList& list = plan.receives[0];
              auto& sends = planned.plans[static_cast<std::size_t>(list.peer)].sends;
              auto mirror = std::ranges::find(sends, plan.rank, &PairList::peer);
              list.moves.push_back(list.moves.back());
              mirror->moves.push_back(mirror->moves.back());
            }),
            std::vector<std::string>{});
}

TEST(CheckPlans, SeesEndsThatDisagree) {
  EXPECT_NE(violations_after([](Planned&, Plan& plan) { plan.receives[0].hash ^= 1U; }),
            std::vector<std::string>{});
}

TEST(CheckPlans, SeesAMissingRank) {
  EXPECT_NE(violations_after([](Planned& planned, Plan&) { planned.plans.pop_back(); }),
            std::vector<std::string>{});
}

}  // namespace
}  // namespace dynatrain

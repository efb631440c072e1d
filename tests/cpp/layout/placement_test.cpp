#include "dynatrain/layout/placement.hpp"

#include "dynatrain/base/error.hpp"

#include <gtest/gtest.h>

#include "layout/index_oracle.hpp"

namespace dynatrain {
namespace {

using testing::chunk;
using testing::Indices;
using testing::indices_of;
using testing::iota;
using testing::replicate;
using testing::shard;
using testing::strided_part;

/// What a coordinate holds of a 1-D tensor, as single indices.
Indices held(std::int64_t size,
             const std::vector<int>& mesh,
             const std::vector<int>& at,
             const std::vector<Placement>& placements) {
  return indices_of(local_intervals({size}, mesh, at, placements)[0]);
}

// torch.chunk's rule: 10 over 4 is 3, 3, 3, 1, and 5 over 4 is 2, 2, 1 and nothing.
TEST(LocalIntervals, ShardCutsAsTorchChunkDoes) {
  for (int size = 0; size <= 20; ++size) {
    for (int parts = 1; parts <= 7; ++parts) {
      for (int own = 0; own < parts; ++own) {
        ASSERT_EQ(held(size, {parts}, {own}, {shard(0)}),
                  chunk(iota(size), static_cast<std::size_t>(parts))[static_cast<std::size_t>(own)])
            << size << " over " << parts << " at " << own;
      }
    }
  }
}

// FSDP inside TP: FSDP cuts what TP has left, uneven sizes too. torch writes that as a strided
// shard on the outer mesh dimension; taking it literally would hold other elements when uneven.
TEST(LocalIntervals, FsdpInsideTpCutsWhatTpLeft) {
  for (int size = 0; size <= 24; ++size) {
    for (int dp = 1; dp <= 4; ++dp) {
      for (int tp = 2; tp <= 4; ++tp) {
        for (int at = 0; at < dp * tp; ++at) {
          const auto dp_rank = static_cast<std::size_t>(at / tp);
          const auto tp_rank = static_cast<std::size_t>(at % tp);
          const Indices of_tp = chunk(iota(size), static_cast<std::size_t>(tp))[tp_rank];
          ASSERT_EQ(held(size, {dp, tp}, {at / tp, at % tp}, {shard(0, tp), shard(0)}),
                    chunk(of_tp, static_cast<std::size_t>(dp))[dp_rank])
              << size << " over dp " << dp << " tp " << tp << " at " << at;
        }
      }
    }
  }
}

// Two data axes over TP: each strided shard that counts all later cuts is applied behind them.
TEST(LocalIntervals, StridedShardsNestFromTheInnermost) {
  for (const int size : {24, 23, 7, 3}) {
    for (int at = 0; at < 2 * 3 * 2; ++at) {
      const std::vector<int> place{at / 6, at / 2 % 3, at % 2};
      const Indices tp = chunk(iota(size), 2)[static_cast<std::size_t>(place[2])];
      const Indices inner = chunk(tp, 3)[static_cast<std::size_t>(place[1])];
      EXPECT_EQ(held(size, {2, 3, 2}, place, {shard(0, 6), shard(0, 2), shard(0)}),
                chunk(inner, 2)[static_cast<std::size_t>(place[0])])
          << size << " at " << at;
    }
  }
}

// Any other strided shard is torch's general one: own part of every piece, uneven pieces too.
TEST(LocalIntervals, GeneralStridedShardTakesItsPartOfEveryPiece) {
  for (int size = 0; size <= 20; ++size) {
    for (int factor = 2; factor <= 5; ++factor) {
      for (int own = 0; own < 3; ++own) {
        ASSERT_EQ(
            held(size, {3}, {own}, {shard(0, factor)}),
            strided_part(
                iota(size), static_cast<std::size_t>(factor), 3, static_cast<std::size_t>(own)))
            << size << " factor " << factor << " at " << own;
      }
    }
  }
}

// Several mesh axes on one dimension cut one after the other, left to right; replicas do nothing.
TEST(LocalIntervals, PlainShardsCutFromLeftToRight) {
  for (const int size : {17, 12, 5}) {
    for (int at = 0; at < 6; ++at) {
      const Indices outer = chunk(iota(size), 2)[static_cast<std::size_t>(at / 3)];
      EXPECT_EQ(held(size, {2, 4, 3}, {at / 3, 1, at % 3}, {shard(0), replicate(), shard(0)}),
                chunk(outer, 3)[static_cast<std::size_t>(at % 3)]);
    }
  }
}

// Different dimensions do not see each other's cuts; a scalar has none to cut.
TEST(LocalIntervals, DimensionsAreCutApart) {
  const std::vector<int> mesh{2, 2};
  const std::vector<int> at{1, 0};
  const auto held_2d = local_intervals({4, 6}, mesh, at, std::vector{shard(1), shard(0)});

  EXPECT_EQ(indices_of(held_2d[0]), (Indices{0, 1}));
  EXPECT_EQ(indices_of(held_2d[1]), (Indices{3, 4, 5}));
  EXPECT_TRUE(local_intervals({}, mesh, at, std::vector{replicate(), replicate()}).empty());
}

// Neighbouring pieces are one interval: a rank that holds all of a dimension holds one box.
TEST(LocalIntervals, JoinsNeighbours) {
  const DimIntervals whole{{0, 12}};

  EXPECT_EQ(local_intervals({12}, std::vector{1}, std::vector{0}, std::vector{shard(0, 3)})[0],
            whole);
}

// A placement of a dimension that the tensor does not have must not be taken for "replicated".
TEST(LocalIntervals, RefusesWhatDoesNotFit) {
  EXPECT_THROW(static_cast<void>(held(4, {2}, {0}, {shard(1)})), LayoutError);
  EXPECT_THROW(static_cast<void>(held(4, {2}, {0}, {shard(-1)})), LayoutError);
  EXPECT_THROW(static_cast<void>(held(4, {2}, {0}, {shard(0, 0)})), LayoutError);
  EXPECT_THROW(static_cast<void>(held(4, {2, 2}, {0, 0}, {shard(0)})), LayoutError);
  EXPECT_THROW(static_cast<void>(held(4, {2}, {}, {shard(0)})), LayoutError);
}

// Each factor alone was bounded: two of a million on one dimension took an hour, on two dimensions
// more memory than there is. A publication says so in a few bytes.
TEST(LocalIntervals, PiecesOfAllFactorsTogetherAreBounded) {
  const std::vector<Placement> few{shard(0, 64), shard(1, 32)};
  const std::vector<Placement> many{shard(0, kMaxSplitFactor), shard(1, 2)};

  EXPECT_EQ(local_intervals({128, 64}, std::vector{2, 2}, std::vector{0, 0}, few)[0].size(), 64U);
  EXPECT_THROW(
      static_cast<void>(local_intervals({4, 4}, std::vector{2, 2}, std::vector{0, 0}, many)),
      LayoutError);
}

// A mesh that lists a rank twice would give one rank two shards.
TEST(Mesh, RefusesRepeatedMissingAndNegativeRanks) {
  EXPECT_THROW((Mesh{{2, 2}, {0, 1, 2, 2}}.check()), LayoutError);
  EXPECT_THROW((Mesh{{2, 2}, {0, 1, 2}}.check()), LayoutError);
  EXPECT_THROW((Mesh{{2}, {0, -1}}.check()), LayoutError);
  EXPECT_THROW((Mesh{{0}, {}}.check()), LayoutError);
  EXPECT_NO_THROW((Mesh{{2, 2}, {7, 5, 3, 1}}.check()));
}

// Meshes need not be ascending or start at 0: a pipeline stage has its own ranks.
TEST(Mesh, FindsCoordinatesRowMajor) {
  const Mesh mesh{{2, 3}, {10, 11, 12, 4, 5, 6}};

  EXPECT_EQ(mesh.coordinate_of(5), (std::vector{1, 1}));
  EXPECT_TRUE(mesh.coordinate_of(7).empty());
}

}  // namespace
}  // namespace dynatrain

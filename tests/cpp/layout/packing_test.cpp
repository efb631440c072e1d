#include "dynatrain/layout/packing.hpp"

#include "dynatrain/base/error.hpp"

#include <gtest/gtest.h>

#include "layout/index_oracle.hpp"
#include <cstdint>
#include <map>
#include <string>
#include <utility>
#include <vector>

namespace dynatrain {
namespace {

using testing::replicate;
using testing::shard;

Descriptor cut(const std::string& name, Shape shape, Mesh mesh, std::vector<Placement> placements) {
  return {{name, shape, {"float32", 4}}, std::move(mesh), std::move(placements), {}};
}

Descriptor whole(const std::string& name, Shape shape, DType dtype = {"float32", 4}) {
  return {{name, shape, std::move(dtype)}, {}, {}, {}};
}

/// Calls work(index of the element in the whole tensor, its place in the buffer) for a fragment.
template <class Work>
void for_each_element(const Shape& shape, const Box& box, const View& view, Work work) {
  const Shape extents = box.shape();
  const Strides strides = row_major_strides(shape);
  for (std::int64_t i = 0; i < box.num_elements(); ++i) {
    std::int64_t rest = i;
    std::int64_t index = 0;
    std::int64_t place = view.offset_elems;
    for (int d = shape.rank() - 1; d >= 0; --d) {
      const std::int64_t at = rest % extents[d];
      rest /= extents[d];
      index += (box.begin[d] + at) * strides[d];
      place += at * view.strides[d];
    }
    work(index, place);
  }
}

const Mesh kGrid{{2, 2}, {0, 1, 2, 3}};

// A strided shard of odd extents is several boxes, which lie apart in the run: each element of the
// run must be the one that the map says is there.
TEST(Packing, EveryElementOfTheRankLiesWhereTheRunSays) {
  const Shape shape{7, 5};
  const std::vector<Descriptor> live{cut("a|param", shape, kGrid, {shard(0, 2), shard(0)}),
                                     cut("b|param", shape, kGrid, {shard(1), replicate()})};
  for (int rank = 0; rank < 4; ++rank) {
    const Packing packing = make_packing(live, rank);
    std::vector<std::int64_t> run(static_cast<std::size_t>(packing.size_bytes / 4), -1);
    for (const PackedPiece& piece : packing.pieces) {
      const auto tensor = static_cast<std::int64_t>(piece.index) * 1000;
      for_each_element(shape, piece.box, piece.packed, [&](auto index, auto place) {
        EXPECT_EQ(run.at(static_cast<std::size_t>(place)), -1) << "written twice";
        run.at(static_cast<std::size_t>(place)) = tensor + index;
      });
    }
    for (std::size_t i = 0; i < packing.held.size(); ++i) {
      const std::int64_t tensor = packing.held[i].tensor.name == "a|param" ? 0 : 1000;
      for (const Fragment& fragment : packing.held[i].fragments) {
        for_each_element(shape, fragment.box, fragment.view, [&](auto index, auto place) {
          EXPECT_EQ(run.at(static_cast<std::size_t>(place)), tensor + index);
        });
      }
    }
  }
}

// What a rank packs is what a map of its mesh says that it holds: no more, or another rank's part
// would be taken from it, and no less, or a recovery misses it.
TEST(Packing, HoldsWhatTheMapSaysOfTheRank) {
  const Descriptor live = cut("a|param", {10, 3}, kGrid, {shard(0), shard(1)});
  const auto sharding = make_compact_sharding(live.mesh, live.placements);
  for (int rank = 0; rank < 4; ++rank) {
    const Packing packing = make_packing(std::vector{live}, rank);
    std::vector<Box> packed;
    for (const Fragment& fragment : packing.held.at(0).fragments) {
      packed.push_back(fragment.box);
    }
    std::vector<Box> held;
    for (const Fragment& fragment : sharding->fragments(live.tensor.shape, rank)) {
      held.push_back(fragment.box);
    }
    EXPECT_EQ(packed, held);
  }
}

// Nothing is told of an empty shard: a tensor without fragments is one that is held whole. But a
// tensor without an element has an owner nowhere else.
TEST(Packing, LeavesOutEmptyShardsAndKeepsEmptyTensors) {
  const std::vector<Descriptor> live{cut("a|param", {1, 4}, {{2}, {0, 1}}, {shard(0)}),
                                     whole("b|buffer", {0, 4})};
  const Packing packing = make_packing(live, 1);

  ASSERT_EQ(packing.held.size(), 1U);
  EXPECT_EQ(packing.held[0].tensor.name, "b|buffer");
  EXPECT_EQ(packing.size_bytes, 0);
}

// Elements of 16 bytes behind one byte must not share its word: their offset counts elements.
TEST(Packing, PiecesBeginAtAlignedPlaces) {
  const std::vector<Descriptor> live{whole("a|param", {1}, {"bool", 1}),
                                     whole("b|param", {2}, {"complex128", 16})};
  const Packing packing = make_packing(live, 0);

  EXPECT_EQ(packing.held[1].fragments.at(0).view.offset_elems, kPackedAlignment / 16);
  EXPECT_EQ(packing.size_bytes, 2 * kPackedAlignment);
  EXPECT_THROW(static_cast<void>(make_packing(std::vector{whole("c|param", {1}, {"odd", 12})}, 0)),
               LayoutError);
}

std::string packed_blob(const Descriptor& live, int rank) {
  return encode_descriptors(make_packing(std::vector{live}, rank).held);
}

// The member that dies held a quarter. Its partner says where in its buffer that quarter lies.
TEST(PackedShares, APartnerHoldsTheLostPartBesideItsOwn) {
  const Descriptor live = cut("a|param", {8, 4}, {{4}, {0, 1, 2, 3}}, {shard(0)});
  const std::string own = packed_blob(live, 0);
  const std::string lost = packed_blob(live, 2);
  const std::vector<PackedShare> shares{{own, 0}, {lost, 128}};
  const std::vector<Descriptor> held = join_packed(shares);

  ASSERT_EQ(held.size(), 1U);
  EXPECT_EQ(held[0].fragments,
            (std::vector<Fragment>{{{{0, 0}, {2, 4}}, {0, {4, 1}}},
                                   {{{4, 0}, {6, 4}}, {128 / 4, {4, 1}}}}));
}

// Both have all of a replicated tensor. A rank that held an element twice is refused by the map.
TEST(PackedShares, WhatBothHoldIsToldOnce) {
  const Descriptor rows = cut("a|param", {8, 4}, {{2}, {0, 1}}, {shard(0)});
  const std::string first = packed_blob(rows, 0);
  const std::string all = packed_blob(whole("a|param", {8, 4}), 1);
  const std::vector<PackedShare> shares{{first, 0}, {all, 64}};
  const std::vector<Descriptor> held = join_packed(shares);

  EXPECT_EQ(held.at(0).fragments,
            (std::vector<Fragment>{{{{0, 0}, {4, 4}}, {0, {4, 1}}},
                                   {{{4, 0}, {8, 4}}, {64 / 4 + 16, {4, 1}}}}));
}

std::string refusal_of(const std::vector<PackedShare>& shares) {
  try {
    static_cast<void>(join_packed(shares));
  } catch (const LayoutError& error) {
    return error.what();
  }
  return {};
}

TEST(PackedShares, RefusesWhatIsNoRun) {
  const std::string one = packed_blob(whole("a|param", {8, 4}), 0);
  const std::string other = packed_blob(whole("a|param", {4, 8}), 0);
  const std::string live = encode_descriptors(std::vector{whole("a|param", {8, 4})});

  EXPECT_NE(refusal_of({{one, 0}, {other, 128}}).find("disagree about 'a|param'"),
            std::string::npos);
  EXPECT_NE(refusal_of({{live, 0}}).find("as a live tensor is"), std::string::npos);
  EXPECT_NE(refusal_of({{one, 4}}).find("begins at byte 4"), std::string::npos);
}

/// Joins a run that holds one fragment of a tensor of 4 x 4.
std::vector<Descriptor> joined(const Fragment& fragment) {
  const Descriptor told{{"a|param", {4, 4}, {"float32", 4}}, {}, {}, {fragment}};
  const std::string blob = encode_descriptors({&told, 1});
  const PackedShare share{blob, 0};
  return join_packed({&share, 1});
}

// A blob comes from another rank or a file: a box that is none would be read from wherever it says.
TEST(Packing, ABoxThatTheTensorDoesNotHaveIsRefused) {
  EXPECT_EQ(joined({Box{{0, 0}, {4, 4}}, {0, {4, 1}}}).size(), 1U);

  EXPECT_THROW((void)joined({Box{{0, 0}, {9, 9}}, {0, {9, 1}}}), LayoutError) << "outside";
  EXPECT_THROW((void)joined({Box{{0}, {4}}, {0, {1}}}), LayoutError) << "of another rank";
  EXPECT_THROW((void)joined({Box{{0, 0}, {4, 4}}, {0, {1}}}), LayoutError) << "too few strides";
  EXPECT_THROW((void)joined({Box{{0, 0}, {4}}, {0, {4, 1}}}), LayoutError) << "half a box";
  EXPECT_THROW((void)joined({Box{{3, 0}, {1, 4}}, {0, {4, 1}}}), LayoutError) << "turned round";
}

// Where two runs share a part, places in the rest are counted by its strides: a product that does
// not fit 64 bits would be a place before the run.
TEST(Packing, AViewThatReachesFurtherThanAnyBufferIsRefused) {
  constexpr std::int64_t kFar = std::int64_t{1} << 62U;

  EXPECT_THROW((void)joined({Box{{0, 0}, {4, 4}}, {0, {kFar, 1}}}), LayoutError) << "by strides";
  EXPECT_THROW((void)joined({Box{{0, 0}, {4, 4}}, {kFar, {4, 1}}}), LayoutError) << "by its begin";
}

}  // namespace
}  // namespace dynatrain

#include "dynatrain/base/error.hpp"
#include "dynatrain/layout/shard_map.hpp"

#include <gtest/gtest.h>

#include "layout/blob.hpp"
#include "layout/index_oracle.hpp"
#include <algorithm>
#include <random>
#include <string>

namespace dynatrain {
namespace {

using testing::replicate;
using testing::shard;

Descriptor whole(const std::string& name, Shape shape) {
  return {{name, shape, {"float32", 4}}, {}, {}, {}};
}

Descriptor cut(const std::string& name, Mesh mesh, std::vector<Placement> placements) {
  return {{name, {8, 4}, {"float32", 4}}, std::move(mesh), std::move(placements), {}};
}

Descriptor rows(const std::string& name, std::int64_t begin, std::int64_t end) {
  return {{name, {8, 4}, {"float32", 4}}, {}, {}, {{{{begin, 0}, {end, 4}}, {0, {4, 1}}}}};
}

std::string encode(const std::vector<Descriptor>& descriptors) {
  return encode_descriptors(descriptors);
}

/// The message with which the publications are refused, or "".
std::string refusal_of(const std::vector<Publication>& publications) {
  try {
    static_cast<void>(merge_publications(publications));
  } catch (const LayoutError& error) {
    return error.what();
  }
  return {};
}

const Mesh kPair{{2}, {0, 1}};

// Member 2 of the mesh has died, and with it the only copy of the third quarter. If it still
// counted as an owner, a recovery would wait for bytes that nobody sends.
TEST(Publication, WhoHasGoneOwnsNothing) {
  const Mesh four{{4}, {0, 1, 7, 2}};
  const std::string blob = encode({cut("a|param", four, {shard(0)})});
  const ShardMap map = merge_publications(std::vector<Publication>{{blob, {0, 1, 2}}}, 3);

  const std::vector<OwnedBox> owned = map.owned_boxes(TensorId{0});
  ASSERT_EQ(owned.size(), 3U);
  EXPECT_EQ(owned[2], (OwnedBox{{{6, 0}, {8, 4}}, {2}}));
  EXPECT_TRUE(map.fragments(TensorId{0}, 7).empty());
  EXPECT_EQ(map.num_ranks(), 3);
  EXPECT_THROW(prove_coverage(map), LayoutError);
}

TEST(Publication, ReplicaOfWhoHasGoneCovers) {
  const Mesh grid{{2, 2}, {0, 1, 7, 2}};
  const std::string blob = encode({cut("a|param", grid, {replicate(), shard(0)})});
  const ShardMap map = merge_publications(std::vector<Publication>{{blob, {0, 1, 2}}}, 3);

  EXPECT_NO_THROW(prove_coverage(map));
  EXPECT_EQ(map.owned_boxes(TensorId{0}).front().ranks, std::vector<int>{0});
}

// A member that is there and says nothing has built something else.
TEST(Publication, OnlyWhoHasGoneMayBeSilent) {
  const Mesh four{{4}, {0, 1, 7, 2}};
  const std::vector<Publication> published{{encode({cut("a|param", four, {shard(0)})}), {0, 1}}};

  EXPECT_THROW(static_cast<void>(merge_publications(published, 3)), LayoutError);
  EXPECT_THROW(static_cast<void>(merge_publications(published)), LayoutError);
}

// Ranks that say the same must publish the same bytes, however they walked their state: only then
// are their blobs grouped, and a world of many ranks costs as much as a few.
TEST(Publication, EqualStatesGiveEqualBytes) {
  const Descriptor a = cut("a|param", kPair, {shard(0)});
  const Descriptor b = whole("b|param", {3});

  EXPECT_EQ(encode({a, b}), encode({b, a}));
  EXPECT_NE(encode({a, b}), encode({a}));
}

// A mesh of a thousand ranks is written once, not once for each of ten thousand tensors.
TEST(Publication, StoresEachMeshOnce) {
  Mesh large{{1000}, {}};
  for (int rank = 0; rank < 1000; ++rank) {
    large.ranks.push_back(rank);
  }
  const std::string one = encode({cut("a", large, {shard(0)})});
  const std::string two = encode({cut("a", large, {shard(0)}), cut("b", large, {shard(0)})});

  EXPECT_LT(two.size() - one.size(), 32U);
}

// What was published must come back: every form, every field.
TEST(Publication, MergeGivesBackWhatRanksHold) {
  const Mesh grid{{2, 2}, {0, 2, 1, 3}};
  const std::vector<Descriptor> shared{cut("cut|param", grid, {shard(0, 2), shard(0)}),
                                       whole("step|step", {})};
  std::vector<Publication> publications;
  for (int rank = 0; rank < 4; ++rank) {
    std::vector<Descriptor> own = shared;
    own.push_back(rows("flat|exp_avg", rank * 2, rank * 2 + 2));
    publications.push_back({encode(own), {rank}});
  }
  const ShardMap map = merge_publications(publications);

  ASSERT_EQ(map.num_tensors(), 3U);
  EXPECT_EQ(map.num_ranks(), 4);
  EXPECT_EQ(map.tensor(map.find("flat|exp_avg")), rows("flat|exp_avg", 0, 1).tensor);
  EXPECT_EQ(map.fragments(map.find("flat|exp_avg"), 3), rows("", 6, 8).fragments);
  EXPECT_EQ(map.owned_boxes(map.find("cut|param")),
            make_compact_sharding(grid, {shard(0, 2), shard(0)})->owned_boxes({8, 4}));
  EXPECT_EQ(map.owned_boxes(map.find("step|step")).front().ranks, (std::vector{0, 1, 2, 3}));
  EXPECT_EQ(map.find("none").value, -1);
}

// Law 4: blobs may arrive in any order and grouping, the map must be one and the same.
TEST(Publication, MergeDoesNotDependOnOrderOrGrouping) {
  const std::string first = encode({cut("a", kPair, {shard(0)}), whole("b", {3})});
  const std::string last = encode({whole("b", {3}), whole("c", {3})});
  const ShardMap one = merge_publications(std::vector<Publication>{{first, {0, 1}}, {last, {2}}});
  const ShardMap other =
      merge_publications(std::vector<Publication>{{last, {2}}, {first, {1}}, {first, {0}}});

  EXPECT_EQ(one.hash(), other.hash());
  EXPECT_EQ(one.owned_boxes(one.find("b")), other.owned_boxes(other.find("b")));
}

// Tensors cut alike must share one sharding: the planner plans one of them and stamps the rest.
TEST(Publication, TensorsCutAlikeShareOneSharding) {
  const std::string blob =
      encode({cut("a", kPair, {shard(0)}), cut("b", kPair, {shard(0)}), whole("c", {2})});
  const ShardMap map = merge_publications(std::vector<Publication>{{blob, {0, 1}}});

  EXPECT_EQ(&map.sharding(map.find("a")), &map.sharding(map.find("b")));
  EXPECT_NE(&map.sharding(map.find("a")), &map.sharding(map.find("c")));
}

// A tied weight lives on the meshes of two stages: both are owners, and that is no disagreement.
TEST(Publication, TiedWeightHasOwnersOnBothStages) {
  const Mesh last{{2}, {2, 3}};
  const ShardMap map = merge_publications(
      std::vector<Publication>{{encode({cut("emb", kPair, {shard(0)})}), {0, 1}},
                               {encode({cut("emb", last, {shard(0)})}), {2, 3}}});

  EXPECT_EQ(map.owned_boxes(map.find("emb")).front().ranks, (std::vector{0, 2}));
}

// Two ranks with two models would mix weights of different meaning: refused, with both values.
TEST(Publication, RefusesRanksThatDisagreeAboutATensor) {
  Descriptor other_dtype = whole("w|param", {3});
  other_dtype.tensor.dtype = {"bfloat16", 2};
  const std::string text =
      refusal_of({{encode({whole("w|param", {3})}), {0}}, {encode({other_dtype}), {1}}});
  const std::string shapes = refusal_of(
      {{encode({whole("w|param", {3})}), {0, 2}}, {encode({whole("w|param", {4})}), {1}}});

  EXPECT_NE(text.find("'w|param'"), std::string::npos) << text;
  EXPECT_NE(text.find("rank 0: float32 [3]"), std::string::npos) << text;
  EXPECT_NE(text.find("rank 1: bfloat16 [3]"), std::string::npos) << text;
  EXPECT_NE(shapes.find("ranks 0, 2: float32 [3]"), std::string::npos) << shapes;
}

// The same mesh cut in two ways: each rank alone is plausible, together elements are lost.
TEST(Publication, RefusesRanksThatDisagreeAboutPlacements) {
  const std::string text = refusal_of(
      {{encode({cut("w", kPair, {shard(0)})}), {0}}, {encode({cut("w", kPair, {shard(1)})}), {1}}});

  EXPECT_NE(text.find("Shard(0)"), std::string::npos) << text;
  EXPECT_NE(text.find("Shard(1)"), std::string::npos) << text;
}

// Optimizer state that only some ranks have created yet (law 2: it would have no owner there).
TEST(Publication, RefusesAMeshRankThatPublishesNothing) {
  const std::string text = refusal_of(
      {{encode({cut("w|exp_avg", kPair, {shard(0)})}), {0}}, {encode({whole("step", {})}), {1}}});

  EXPECT_NE(text.find("rank 1: does not publish it"), std::string::npos) << text;
}

// A rank that names a mesh it is not part of holds something else than it says.
TEST(Publication, RefusesAPublisherOutsideItsMesh) {
  EXPECT_NE(refusal_of({{encode({cut("w", kPair, {shard(0)})}), {0, 1, 2}}}), "");
}

// One rank in two publications would own its state twice.
TEST(Publication, RefusesARankThatPublishesTwice) {
  const std::string blob = encode({whole("w", {3})});

  EXPECT_NE(refusal_of({{blob, {0, 1}}, {blob, {1}}}).find("rank 1"), std::string::npos);
}

// A fragment outside its tensor would be read past the end of a buffer.
TEST(Publication, RefusesFragmentsOutsideTheTensor) {
  const std::string text = refusal_of({{encode({rows("w", 6, 9)}), {0}}});

  EXPECT_NE(text.find("'w'"), std::string::npos) << text;
  EXPECT_NE(text.find("[6:9, 0:4]"), std::string::npos) << text;
}

// What cannot be said at all must not be published.
TEST(Publication, RefusesToPublishWhatMakesNoSense) {
  Descriptor both = cut("w", kPair, {shard(0)});
  both.fragments = rows("w", 0, 1).fragments;
  Descriptor negative = whole("w", {3});
  negative.tensor.shape[0] = -3;

  EXPECT_THROW(encode({both}), LayoutError);
  EXPECT_THROW(encode({negative}), LayoutError);
  EXPECT_THROW(encode({whole("w", {3}), whole("w", {3})}), LayoutError);
  EXPECT_THROW(encode({cut("w", {{3}, {0, 1}}, {shard(0)})}), LayoutError);
}

std::string rich_blob() {
  return encode({cut("a|param", {{2, 2}, {0, 1, 2, 3}}, {shard(0, 2), shard(0)}),
                 cut("b|param", kPair, {replicate()}),
                 whole("c|step", {}),
                 rows("d|exp_avg", 2, 5)});
}

/// The body of a blob with a checksum that fits it.
std::string sealed(std::string body) {
  const std::uint64_t checksum = blob_checksum(body);
  for (unsigned i = 0; i < 8; ++i) {
    body.push_back(static_cast<char>((checksum >> (8 * i)) & 0xffU));
  }
  return body;
}

/// True when the blob is refused by LayoutError; any other exception ends the test.
bool is_refused(const std::string& blob) {
  try {
    const ShardMap map = merge_publications(std::vector<Publication>{{blob, {0}}});
    prove_coverage(map);
  } catch (const LayoutError&) {
    return true;
  }
  return false;
}

// The wire and the store are doors: a bit that flipped on the way must be seen, wherever it is.
TEST(PublicationFuzz, EveryFlippedBitIsRefused) {
  const std::string blob = rich_blob();
  for (std::size_t at = 0; at < blob.size(); ++at) {
    for (unsigned bit = 0; bit < 8; ++bit) {
      std::string corrupt = blob;
      corrupt[at] = static_cast<char>(static_cast<unsigned char>(corrupt[at]) ^ (1U << bit));
      ASSERT_TRUE(is_refused(corrupt)) << "byte " << at << " bit " << bit;
    }
  }
}

// A blob may be cut off or be no blob at all.
TEST(PublicationFuzz, EveryTruncationIsRefused) {
  const std::string blob = rich_blob();
  for (std::size_t size = 0; size < blob.size(); ++size) {
    ASSERT_TRUE(is_refused(blob.substr(0, size))) << size;
    ASSERT_TRUE(is_refused(sealed(blob.substr(0, size)))) << size;
  }
  EXPECT_TRUE(is_refused(sealed(blob.substr(0, blob.size() - 8) + "x")));
}

/// The bytes of a blob from its magic on, with a checksum that fits.
std::string blob_of(std::string_view body) {
  return sealed("dynatrain map 1\n" + std::string(body));
}

// A count was held against the bytes from its own first one on, and may be one too large: what
// comes next was read behind the end, and from there on no count was refused any more. What is read
// there is the checksum, so that it takes many names to have it say something.
TEST(PublicationFuzz, ATextThatEndsBehindTheBlobIsRefused) {
  for (int i = 0; i < 4096; ++i) {
    const std::string name{static_cast<char>('0' + i % 64), static_cast<char>('0' + i / 64), 'x'};

    ASSERT_THROW(static_cast<void>(decode_blob(blob_of(std::string("\0\1\4", 3) + name))),
                 LayoutError)
        << name;
  }
}

// Ranks that hold the same are told by equal bytes.
TEST(PublicationFuzz, WhatIsSpelledInAnotherWayIsRefused) {
  const std::string_view overlong("\0\1\3abc\0\1x\x81\0\0", 12);
  const std::string_view cut_replica("\1\1\1\1\0\1\0\1\0", 9);
  const std::string_view replica("\1\1\1\1\0\1\0\0\0", 9);

  EXPECT_THROW(static_cast<void>(decode_blob(blob_of(overlong))), LayoutError);
  EXPECT_THROW(static_cast<void>(decode_blob(blob_of(cut_replica))), LayoutError);
  EXPECT_NO_THROW(static_cast<void>(decode_blob(blob_of(replica))));
}

// Bytes with a fitting checksum may still be nonsense (another version, a bug): the answer is a map
// or a LayoutError, never memory out of bounds, no unbounded work, no other exception.
TEST(PublicationFuzz, NonsenseWithAFittingChecksumIsAnAnswerOrALayoutError) {
  const std::string whole_blob = rich_blob();
  const std::string body = whole_blob.substr(0, whole_blob.size() - 8);
  ASSERT_EQ(sealed(body), whole_blob);
  int refused = 0;
  for (std::uint64_t seed = 0; seed < 4000; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    std::mt19937_64 random(seed);
    std::string corrupt = body;
    for (std::uint64_t change = 0; change <= random() % 3; ++change) {
      corrupt[random() % corrupt.size()] = static_cast<char>(random() % 256);
    }
    ASSERT_NO_THROW(refused += is_refused(sealed(corrupt)) ? 1 : 0);
  }
  EXPECT_GT(refused, 2000);
}

}  // namespace
}  // namespace dynatrain

#include "dynatrain/layout/layout.hpp"

#include "dynatrain/base/error.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <random>
#include <set>
#include <string>

namespace dynatrain {
namespace {

/// The message with which `text` is refused, or "" when it is not.
std::string refusal_of(std::string_view text) {
  try {
    static_cast<void>(Layout::parse(text));
  } catch (const LayoutError& error) {
    return error.what();
  }
  return {};
}

LayoutSpec random_spec(std::mt19937_64& random) {
  const auto size = [&random] { return static_cast<int>(random() % 3) + 1; };
  LayoutSpec spec;
  for (int* field : {&spec.dp_shard, &spec.dp_replicate, &spec.cp, &spec.tp, &spec.pp}) {
    *field = size();
  }
  spec.etp = random() % 2 == 0 ? 1 : spec.tp;
  const int experts = spec.dp_shard * spec.cp * spec.tp / spec.etp;
  do {
    spec.ep = static_cast<int>(random() % 6) + 1;
  } while (experts % spec.ep != 0);
  spec.vpp = spec.pp > 1 ? size() : 1;
  if (random() % 2 == 0) {
    for (int i = 0; i < spec.pp * spec.vpp; ++i) {
      spec.stages.push_back(size());
    }
  }
  if (random() % 2 == 0) {
    std::shuffle(spec.order.begin(), spec.order.end(), random);
  }
  return spec;
}

// The text form stands in the command line, in JSON and in messages: it must lose nothing.
TEST(LayoutText, ParseReadsBackWhatToStringWrites) {
  for (std::uint64_t seed = 0; seed < 300; ++seed) {
    std::mt19937_64 random(seed);
    const Layout layout(random_spec(random));
    EXPECT_EQ(Layout::parse(layout.to_string()), layout) << "seed " << seed;
    EXPECT_EQ(Layout::parse(layout.to_string()).hash(), layout.hash()) << "seed " << seed;
  }
}

// What the documentation writes must be what users get.
TEST(LayoutText, UsesDpForDpShardAndLeavesOnesOut) {
  EXPECT_EQ(Layout::parse(" tp = 2 , dp_shard = 2 ").to_string(), "dp=2,tp=2");
  EXPECT_EQ(Layout::parse("pp=2,vpp=2,stages=3:2:2:1").to_string(), "pp=2,vpp=2,stages=3:2:2:1");
  EXPECT_EQ(Layout::parse("tp=1").to_string(), "dp=1");
}

// A typing error must be answered with the word that was not understood.

TEST(LayoutText, NamesTheWordItCannotRead) {
  EXPECT_NE(refusal_of("dp=2,tq=2").find("'tq'"), std::string::npos);
  EXPECT_NE(refusal_of("dp=2,tp=two").find("'tp=two'"), std::string::npos);
  EXPECT_NE(refusal_of("dp=2,dp_shard=2").find("twice"), std::string::npos);
  EXPECT_NE(refusal_of("dp").find("'dp'"), std::string::npos);
  EXPECT_NE(refusal_of("").find("''"), std::string::npos);
  EXPECT_NE(refusal_of("tp=99999999999").find("tp=99999999999"), std::string::npos);
  EXPECT_NE(refusal_of("pp=2,stages=2:").find("stages"), std::string::npos);
}

// "'2;tp=2' is not a whole number" said nothing of what was wrong.
TEST(LayoutText, SaysThatCommasSeparateAxes) {
  for (const char* text : {"dp=2;tp=2", "dp=2 tp=1", "dp=2:tp=2"}) {
    EXPECT_NE(refusal_of(text).find("axes are separated by commas"), std::string::npos) << text;
  }
  EXPECT_EQ(refusal_of("dp=two").find("commas"), std::string::npos);
}

// A layout that cannot be is refused when it is made, by the axis at fault, not at the switch.
TEST(Layout, RefusesSizesThatDoNotFitAndNamesTheAxis) {
  EXPECT_NE(refusal_of("tp=0").find("tp=0"), std::string::npos);
  EXPECT_NE(refusal_of("dp=4,ep=3").find("ep=3"), std::string::npos);
  EXPECT_NE(refusal_of("dp=4,tp=4,etp=2").find("etp=2"), std::string::npos);
  EXPECT_NE(refusal_of("dp=4,vpp=2").find("vpp=2"), std::string::npos);
  EXPECT_NE(refusal_of("pp=2,stages=3:2:1").find("stages"), std::string::npos);
  EXPECT_NE(refusal_of("pp=2,stages=3:0").find("stage"), std::string::npos);
  EXPECT_NE(refusal_of("order=pp:pp:dp_shard:cp:tp").find("order"), std::string::npos);
  EXPECT_NE(refusal_of("dp=65536,tp=65536").find("world"), std::string::npos);
}

// Every world size works, not powers of two only.
TEST(Layout, MultipliesTheFiveMeshAxesIntoTheWorld) {
  const Layout layout = Layout::parse("dp=3,dp_replicate=2,cp=5,tp=7,pp=2,ep=5,vpp=3");

  EXPECT_EQ(layout.world_size(), 3 * 2 * 5 * 7 * 2);
  EXPECT_EQ(layout.size(Axis::kEp), 5);
  EXPECT_EQ(layout.size(Axis::kVpp), 3);
}

// Rank numbers decide who holds what: nested loops over the axes, slowest first, are the oracle.
TEST(Layout, CoordinatesCountRanksInTheGivenOrder) {
  for (std::uint64_t seed = 0; seed < 100; ++seed) {
    std::mt19937_64 random(seed);
    const Layout layout(random_spec(random));
    const auto& order = layout.spec().order;
    int rank = 0;
    for (int a = 0; a < layout.size(order[0]); ++a) {
      for (int b = 0; b < layout.size(order[1]); ++b) {
        for (int c = 0; c < layout.size(order[2]); ++c) {
          for (int d = 0; d < layout.size(order[3]); ++d) {
            for (int e = 0; e < layout.size(order[4]); ++e, ++rank) {
              const std::array expected{a, b, c, d, e};
              for (std::size_t i = 0; i < order.size(); ++i) {
                ASSERT_EQ(layout.coordinate(rank, order[i]), expected[i]) << "seed " << seed;
              }
            }
          }
        }
      }
    }
    ASSERT_EQ(rank, layout.world_size());
  }
}

// A group that misses a member hangs a collective; one too many mixes data.
TEST(Layout, GroupsAreTheRanksThatDifferOnlyAlongTheirAxes) {
  const Layout layout = Layout::parse("pp=2,dp=2,tp=2");

  EXPECT_EQ(layout.group(5, {Axis::kTp}), (std::vector<int>{4, 5}));
  EXPECT_EQ(layout.group(5, {Axis::kDpShard}), (std::vector<int>{5, 7}));
  EXPECT_EQ(layout.group(5, {Axis::kPp}), (std::vector<int>{1, 5}));
  EXPECT_EQ(layout.group(5, {Axis::kDpShard, Axis::kTp}), (std::vector<int>{4, 5, 6, 7}));
  EXPECT_EQ(layout.group(5, {}), std::vector<int>{5});
}

// The expert mesh re-cuts the ranks of dp_shard, cp and tp: every place must be taken exactly once.
TEST(Layout, ExpertCoordinatesPlaceEveryRankOnce) {
  for (std::uint64_t seed = 0; seed < 100; ++seed) {
    std::mt19937_64 random(seed);
    const Layout layout(random_spec(random));
    std::set<std::array<int, 5>> places;
    for (int rank = 0; rank < layout.world_size(); ++rank) {
      const auto place = layout.expert_coordinate(rank);
      ASSERT_LT(place.efsdp, layout.efsdp_size()) << "seed " << seed;
      ASSERT_LT(place.ep, layout.size(Axis::kEp)) << "seed " << seed;
      ASSERT_LT(place.etp, layout.size(Axis::kEtp)) << "seed " << seed;
      places.insert({layout.coordinate(rank, Axis::kPp),
                     layout.coordinate(rank, Axis::kDpReplicate),
                     place.efsdp,
                     place.ep,
                     place.etp});
    }
    ASSERT_EQ(std::ssize(places), layout.world_size()) << "seed " << seed;
  }
}

// Torchtitan's order: etp runs fastest, then ep, then what is left for FSDP of the experts.
TEST(Layout, ExpertAxesRunEtpThenEpThenEfsdp) {
  const Layout layout = Layout::parse("dp=4,tp=2,ep=2,etp=2");
  const auto place = layout.expert_coordinate(7);

  EXPECT_EQ(layout.efsdp_size(), 2);
  EXPECT_EQ((std::array{place.efsdp, place.ep, place.etp}), (std::array{1, 1, 1}));
  EXPECT_EQ(layout.expert_coordinate(2).ep, 1);
  EXPECT_EQ(layout.expert_coordinate(4).efsdp, 1);
  EXPECT_EQ(layout.group(0, {Axis::kEp}), (std::vector<int>{0, 2}));
}

// Uneven stages are allowed; together the ranks must hold every layer once, in interleaved order.
TEST(Layout, StagesHoldEveryLayerOnce) {
  const Layout even = Layout::parse("pp=3");
  const Layout uneven = Layout::parse("pp=2,vpp=2,stages=3:2:2:1");
  using Ranges = std::vector<Layout::LayerRange>;

  EXPECT_EQ(even.layers(0, 8), (Ranges{{0, 3}}));
  EXPECT_EQ(even.layers(1, 8), (Ranges{{3, 6}}));
  EXPECT_EQ(even.layers(2, 8), (Ranges{{6, 8}}));
  EXPECT_EQ(uneven.layers(0, 8), (Ranges{{0, 3}, {5, 7}}));
  EXPECT_EQ(uneven.layers(1, 8), (Ranges{{3, 5}, {7, 8}}));
}

// A stage without a layer, or a layer without a stage, is refused before anything is built.
TEST(Layout, RefusesLayersThatDoNotFitTheStages) {
  EXPECT_THROW(static_cast<void>(Layout::parse("pp=4").layers(0, 3)), LayoutError);
  EXPECT_THROW(static_cast<void>(Layout::parse("pp=2,stages=3:2").layers(0, 6)), LayoutError);
  EXPECT_THROW(static_cast<void>(Layout::parse("pp=2").layers(2, 6)), LayoutError);
}

// Asking for a rank or an axis that the mesh does not have is the caller's mistake, not a 0.
TEST(Layout, RefusesRanksAndAxesOutsideTheMesh) {
  const Layout layout = Layout::parse("dp=2,ep=2");

  EXPECT_THROW(static_cast<void>(layout.coordinate(2, Axis::kDpShard)), LayoutError);
  EXPECT_THROW(static_cast<void>(layout.coordinate(0, Axis::kEp)), LayoutError);
  EXPECT_THROW(static_cast<void>(layout.group(0, {Axis::kVpp})), LayoutError);
}

}  // namespace
}  // namespace dynatrain

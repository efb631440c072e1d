#include "dynatrain/layout/meshes.hpp"

#include "dynatrain/base/error.hpp"

#include <gtest/gtest.h>

#include <vector>

namespace dynatrain {
namespace {

// pp=2, dp=2, cp=1, tp=2 with tp slowest: rank = tp * 4 + pp * 2 + dp.
TEST(StageMesh, FollowsTheOrderOfTheLayout) {
  const Layout layout = Layout::parse("pp=2,dp=2,tp=2,order=tp:pp:dp_replicate:dp_shard:cp");
  const Mesh mesh = stage_mesh(layout, 1);
  EXPECT_EQ(mesh.shape, (std::vector<int>{2, 1, 2, 1}));
  EXPECT_EQ(mesh.ranks, (std::vector<int>{2, 3, 6, 7}));
}

// dp=4, tp=2, ep=2 without etp: the eight ranks of a stage are (efsdp 4, ep 2), ep fastest.
TEST(ExpertMesh, HasEachRankAtItsExpertCoordinate) {
  for (const char* const text :
       {"dp=4,tp=2,ep=2",
        "dp=4,tp=2,ep=4,etp=2",
        "dp_replicate=2,dp=4,ep=2,pp=2",
        "dp=2,cp=2,tp=2,ep=4,etp=2,order=pp:tp:dp_shard:dp_replicate:cp"}) {
    const Layout layout = Layout::parse(text);
    for (int pp_rank = 0; pp_rank < layout.size(Axis::kPp); ++pp_rank) {
      const Mesh mesh = expert_mesh(layout, pp_rank);
      mesh.check();
      for (const int rank : mesh.ranks) {
        const Layout::ExpertCoordinate at = layout.expert_coordinate(rank);
        EXPECT_EQ(mesh.coordinate_of(rank),
                  (std::vector<int>{
                      layout.coordinate(rank, Axis::kDpReplicate), at.efsdp, at.ep, at.etp}))
            << text << " rank " << rank;
        EXPECT_EQ(layout.coordinate(rank, Axis::kPp), pp_rank);
      }
    }
  }
}

TEST(StageMesh, OfNoStageIsRefused) {
  EXPECT_THROW((void)stage_mesh(Layout::parse("pp=2"), 2), LayoutError);
  EXPECT_THROW((void)expert_mesh(Layout::parse("pp=2"), -1), LayoutError);
}

}  // namespace
}  // namespace dynatrain

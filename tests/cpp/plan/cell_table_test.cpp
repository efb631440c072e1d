#include "plan/cell_table.hpp"

#include <gtest/gtest.h>

#include "plan/small_maps.hpp"
#include <vector>

namespace dynatrain {
namespace {

using testing::cut_rows;

// Who sends is chosen from these lists alone: a rank that one of them leaves out never sends, or
// never gets its cell.
TEST(CellTable, CellHasItsBoxAndAllItsOwnersAndNeeders) {
  const LogicalTensor tensor{"w", Shape{8, 3}, {"float32", 4}};
  const auto held = make_replicated_sharding({0, 1});

  const CellTable table = make_cell_table(tensor, *held, *cut_rows(4), 3);

  ASSERT_EQ(table.cells.size(), 1U) << "rank 3 needs the last rows, and holds none";
  const Cell& cell = table.cells.front();
  EXPECT_EQ(cell.box, (Box{{6, 0}, {8, 3}}));
  EXPECT_EQ(cell.parties.owners, (std::vector{0, 1}));
  EXPECT_EQ(cell.parties.needers, (std::vector{3}));
}

}  // namespace
}  // namespace dynatrain

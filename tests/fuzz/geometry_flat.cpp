// A flat range of a small tensor, against its elements; of a large one, for its arithmetic.
#include "dynatrain/base/checked.hpp"
#include "dynatrain/geometry/box.hpp"

#include "fuzz/box_counts.hpp"
#include "fuzz/target.hpp"

namespace dynatrain::fuzz {
namespace {

void compare_flat(Draws& draws) {
  const Shape shape{draws.number(0, 7), draws.number(1, 7)};
  const Interval flat{draws.number(0, 50), draws.number(0, 50)};
  Counts expected;
  for (std::int64_t i = flat.begin; i < flat.end; ++i) {
    expected[{i / shape[1], i % shape[1]}] = 1;
  }
  std::vector<Box> boxes;
  if (is_taken([&] { boxes = flat_range_to_boxes(shape, flat); })) {
    expect(counts_of(boxes) == expected && boxes.size() <= 3, "a flat range is its boxes");
  }
}

void add_up_large(Draws& draws) {
  constexpr std::int64_t kMost = std::int64_t{1} << 62U;
  const Shape shape{draws.number(0, kMost), draws.number(0, kMost), draws.number(0, kMost)};
  const Interval flat{draws.number(-1, kMost), draws.number(-1, kMost)};
  std::vector<Box> boxes;
  if (!is_taken([&] { boxes = flat_range_to_boxes(shape, flat); })) {
    return;
  }
  std::int64_t size = 0;
  for (const Box& box : boxes) {
    expect(contains(Box::whole(shape), box), "a box lies in its tensor");
    size = checked_add(size, box.num_elements());
  }
  expect(size == flat.size() && boxes.size() <= 5, "boxes have as many elements as the range");
}

}  // namespace

std::vector<std::string> seeds() {
  return {{"\3\6\0\7", 4}, {"\5\4\7\x12\0\0\0\0\0\0\0\7\0\0\0\0\0\0\1\0", 20}};
}

}  // namespace dynatrain::fuzz

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace dynatrain;
  fuzz::Draws draws(fuzz::text_of(data, size));
  fuzz::compare_flat(draws);
  fuzz::add_up_large(draws);
  return 0;
}

// Up to forty boxes of a small tensor, against lists of their elements.
#include "dynatrain/geometry/box.hpp"

#include "fuzz/box_counts.hpp"
#include "fuzz/target.hpp"

namespace dynatrain::fuzz {
namespace {

Box box_in(Draws& draws, std::int64_t most) {
  return {{draws.number(0, most), draws.number(0, most)},
          {draws.number(0, most), draws.number(0, most)}};
}

void compare(const std::vector<Box>& boxes, const Box& whole) {
  Counts expected = counts_of({whole});
  bool is_twice = false;
  for (const auto& [element, count] : counts_of(boxes)) {
    expected.erase(element);
    is_twice = is_twice || count > 1;
  }
  expect(counts_of(uncovered(whole, boxes)) == expected, "what is left is what nobody covers");
  expect(first_overlap(boxes).has_value() == is_twice, "boxes overlap where they share elements");
}

void compare_two(const Box& a, const Box& b) {
  Counts left = counts_of({a});
  std::erase_if(left,
                [other = counts_of({b})](const auto& each) { return other.contains(each.first); });
  expect(counts_of(subtract(a, b)) == left, "a difference has what the other box has not");
}

}  // namespace

std::vector<std::string> seeds() {
  return {{"\0\0\4\4\2\2\6\6\0\4\4\7\3\3\5\5", 16}, {"\0\0\4\7\4\0\7\7", 8}};
}

}  // namespace dynatrain::fuzz

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace dynatrain;
  fuzz::Draws draws(fuzz::text_of(data, size));
  std::vector<Box> boxes;
  while (!draws.is_over() && boxes.size() < 40) {
    boxes.push_back(fuzz::box_in(draws, 8));
  }
  for (std::size_t i = 1; i < boxes.size(); ++i) {
    fuzz::compare_two(boxes[i - 1], boxes[i]);
  }
  fuzz::compare(boxes, Box::whole({8, 8}));
  return 0;
}

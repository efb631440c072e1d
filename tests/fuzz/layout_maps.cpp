// Publications of up to three kinds of ranks, joined into one map that answers every question.
#include "fuzz/published.hpp"
#include "fuzz/target.hpp"
#include <algorithm>

namespace dynatrain::fuzz {
namespace {

/// Of the first and the last rank, and of one that is in no map.
void ask_of_ranks(const ShardMap& map, TensorId id) {
  for (const int rank : {0, 1, map.num_ranks() - 1, map.num_ranks()}) {
    for (const Fragment& fragment : map.fragments(id, rank)) {
      expect(contains(Box::whole(map.tensor(id).shape), fragment.box) && !fragment.box.empty(),
             "a fragment lies in its tensor");
      static_cast<void>(is_contiguous(fragment.box.shape(), fragment.view.strides));
    }
    static_cast<void>(map.sharding(id).local_shape(map.tensor(id).shape, rank));
  }
}

void ask_all(const ShardMap& map) {
  for (std::size_t i = 0; i < map.num_tensors(); ++i) {
    const TensorId id(static_cast<std::int64_t>(i));
    ask_of_ranks(map, id);
    expect(std::ranges::is_sorted(map.owned_boxes(id), {}, &OwnedBox::box), "boxes are sorted");
  }
  static_cast<void>(map.bytes_of_rank(0));
  static_cast<void>(map.hash());
  const bool is_whole = holes_of(map).empty();
  expect(is_taken([&] { prove_coverage(map); }) == is_whole, "what has holes is not covered");
}

}  // namespace

std::vector<std::string> seeds() {
  std::vector<std::string> all;
  for (const std::string& body : published_bodies()) {
    all.push_back('\x02' + std::string(1, static_cast<char>(body.size())) + body);
    all.push_back('\x04' + std::string(1, static_cast<char>(body.size())) + body + body);
  }
  return all;
}

}  // namespace dynatrain::fuzz

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace dynatrain;
  fuzz::Draws draws(fuzz::text_of(data, size));
  const int num_ranks = draws.small(1, 4);
  const auto first_bytes = static_cast<std::size_t>(draws.number(0, 255));
  const std::string_view rest = draws.rest(), first = rest.substr(0, first_bytes);
  std::vector<Publication> told{{fuzz::published(first), {0}}};
  for (int rank = 1; rank < num_ranks; ++rank) {
    const bool is_other = rank == 1 && first.size() < rest.size();
    told.push_back({fuzz::published(is_other ? rest.substr(first.size()) : first), {rank}});
  }
  static_cast<void>(fuzz::is_taken([&] { fuzz::ask_all(merge_publications(told)); }));
  static_cast<void>(fuzz::is_taken([&] { fuzz::ask_all(merge_publications(told, 2)); }));
  return 0;
}

#include "schedule/list_cuts.hpp"

#include "dynatrain/base/checked.hpp"

#include <algorithm>

namespace dynatrain {
namespace {

/// A place in a list: an element of a move. Past the last move it is {moves.size(), 0}.
struct Place {
  std::size_t move = 0;
  std::int64_t elem = 0;
};

/// floor(weight * index / count) without overflow.
std::int64_t fraction_of(std::int64_t weight, std::int64_t index, std::int64_t count) {
  return weight / count * index + weight % count * index / count;
}

/// Walks one list from cut to cut, forwards only.
class Cutter {
 public:
  Cutter(const std::vector<Move>& moves, const ShardMap& map) : moves_(moves), map_(map) {}

  [[nodiscard]] std::int64_t total_weight() const {
    std::int64_t size_bytes = 0;
    for (const Move& move : moves_) {
      size_bytes = checked_add(size_bytes, move.box.num_elements() * elem_bytes(move));
    }
    return list_weight(size_bytes, moves_.size());
  }

  /// The place of the cut at `weight` from the list's begin; calls come with growing weights.
  Place cut_at(std::int64_t weight) {
    while (move_ < moves_.size() && move_begin_ + weight_of(moves_[move_]) <= weight) {
      move_begin_ += weight_of(moves_[move_]);
      ++move_;
    }
    if (move_ == moves_.size()) {
      return {.move = move_, .elem = 0};
    }
    const Move& move = moves_[move_];
    const std::int64_t step = ceil_div(kCutAlignment, elem_bytes(move));
    const std::int64_t elem = (weight - move_begin_) / elem_bytes(move);
    if (elem >= move.box.num_elements()) {
      return {.move = move_ + 1, .elem = 0};
    }
    return {.move = move_, .elem = elem / step * step};
  }

  [[nodiscard]] std::vector<ListPart> between(const Place& begin, const Place& end) const {
    std::vector<ListPart> parts;
    std::int64_t begin_elem = begin.elem;
    for (std::size_t m = begin.move; m < std::min(end.move + 1, moves_.size()); ++m) {
      const std::int64_t end_elem = m == end.move ? end.elem : moves_[m].box.num_elements();
      if (begin_elem < end_elem) {
        parts.push_back({.move = m, .begin_elem = begin_elem, .end_elem = end_elem});
      }
      begin_elem = 0;
    }
    return parts;
  }

 private:
  [[nodiscard]] std::int64_t elem_bytes(const Move& move) const {
    return map_.tensor(move.tensor).dtype.size_bytes;
  }
  [[nodiscard]] std::int64_t weight_of(const Move& move) const {
    return move.box.num_elements() * elem_bytes(move) + kPartOverhead;
  }

  const std::vector<Move>& moves_;
  const ShardMap& map_;
  std::size_t move_ = 0;
  std::int64_t move_begin_ = 0;
};

}  // namespace

std::int64_t list_weight(std::int64_t size_bytes, std::size_t num_moves) {
  return checked_add(size_bytes, checked_mul(static_cast<std::int64_t>(num_moves), kPartOverhead));
}

std::vector<std::vector<ListPart>> cut_list(const std::vector<Move>& moves,
                                            const ShardMap& map,
                                            int num_stages) {
  Cutter cutter(moves, map);
  const std::int64_t weight = cutter.total_weight();
  std::vector<std::vector<ListPart>> stages;
  stages.reserve(static_cast<std::size_t>(num_stages));
  Place begin;
  for (int k = 0; k < num_stages; ++k) {
    const Place end = cutter.cut_at(fraction_of(weight, k + 1, num_stages));
    stages.push_back(cutter.between(begin, end));
    begin = end;
  }
  return stages;
}

}  // namespace dynatrain

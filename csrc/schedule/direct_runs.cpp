#include "schedule/direct_runs.hpp"

#include "dynatrain/base/checked.hpp"
#include "dynatrain/geometry/view.hpp"

#include <algorithm>
#include <functional>
#include <iterator>
#include <optional>

namespace dynatrain {
namespace {

/// A direct message must free more staging than the part it may split costs.
constexpr std::int64_t kLeastThresholdBytes = 64;

std::optional<View> view_of(const ShardMap& map, TensorId id, int rank, const Box& box) {
  for (const Fragment& fragment : map.fragments(id, rank)) {
    if (contains(fragment.box, box)) {
      return sub_view(fragment.box, fragment.view, box);
    }
  }
  return std::nullopt;
}

/// Elements of the innermost dimensions that are dense at both ends. Dimensions of size 1 do not
/// matter, whatever their strides.
std::int64_t dense_elems(const Shape& shape, const View& src, const View& dst) {
  std::int64_t run = 1;
  for (int d = shape.rank() - 1; d >= 0; --d) {
    if (shape[d] == 1) {
      continue;
    }
    if (src.strides[d] != run || dst.strides[d] != run) {
      break;
    }
    run *= shape[d];
  }
  return run;
}

/// The pieces of `part`, cut at the ends of its runs, that are long enough to travel alone.
std::vector<ListPart> long_runs(const ListPart& part,
                                std::int64_t run_elems,
                                std::int64_t least_elems) {
  std::vector<ListPart> runs;
  for (std::int64_t begin = part.begin_elem; run_elems > 0 && begin < part.end_elem;) {
    const std::int64_t end = std::min((begin / run_elems + 1) * run_elems, part.end_elem);
    if (end - begin >= least_elems) {
      runs.push_back({.move = part.move, .begin_elem = begin, .end_elem = end});
    }
    begin = end;
  }
  return runs;
}

bool in_list_order(const ListPart& a, const ListPart& b) {
  return a.move != b.move ? a.move < b.move : a.begin_elem < b.begin_elem;
}

/// What `chosen`, in list order and each within one part, leave of `parts`.
std::vector<ListPart> without(const std::vector<ListPart>& parts,
                              const std::vector<ListPart>& chosen) {
  std::vector<ListPart> rest;
  auto next = chosen.begin();
  const auto add_unless_empty = [&rest](const ListPart& part) {
    if (part.begin_elem < part.end_elem) {
      rest.push_back(part);
    }
  };
  for (ListPart part : parts) {
    for (; next != chosen.end() && next->move == part.move; ++next) {
      add_unless_empty({part.move, part.begin_elem, next->begin_elem});
      part.begin_elem = next->end_elem;
    }
    add_unless_empty(part);
  }
  return rest;
}

std::int64_t least_direct_bytes(std::int64_t threshold_bytes) {
  return std::max(threshold_bytes, kLeastThresholdBytes);
}

}  // namespace

std::vector<std::int64_t> direct_run_elems(const std::vector<Move>& moves,
                                           const ShardMap& source,
                                           const ShardMap& target,
                                           std::int64_t threshold_bytes) {
  std::vector<std::int64_t> runs;
  runs.reserve(moves.size());
  for (const Move& move : moves) {
    const std::int64_t elem_bytes = source.tensor(move.tensor).dtype.size_bytes;
    const std::int64_t least_elems = ceil_div(least_direct_bytes(threshold_bytes), elem_bytes);
    std::int64_t run = 0;
    if (move.box.num_elements() >= least_elems) {
      const auto src = view_of(source, move.tensor, move.src_rank, move.box);
      const auto dst = view_of(target, move.tensor, move.dst_rank, move.box);
      run = src && dst ? dense_elems(move.box.shape(), *src, *dst) : 0;
    }
    runs.push_back(run >= least_elems ? run : 0);
  }
  return runs;
}

Travel choose_direct(const std::vector<ListPart>& parts,
                     const std::vector<Move>& moves,
                     const std::vector<std::int64_t>& run_elems,
                     const ShardMap& map,
                     const ScheduleOptions& options) {
  struct Candidate {
    ListPart part;
    std::int64_t size_bytes = 0;
  };
  std::vector<Candidate> candidates;
  for (const ListPart& part : parts) {
    const std::int64_t elem_bytes = map.tensor(moves[part.move].tensor).dtype.size_bytes;
    const std::int64_t least =
        ceil_div(least_direct_bytes(options.direct_threshold_bytes), elem_bytes);
    for (const ListPart& run : long_runs(part, run_elems[part.move], least)) {
      candidates.push_back(
          {.part = run, .size_bytes = (run.end_elem - run.begin_elem) * elem_bytes});
    }
  }
  std::ranges::stable_sort(candidates, std::ranges::greater{}, &Candidate::size_bytes);
  const auto most = static_cast<std::size_t>(std::max(options.max_direct_per_pair, 0));
  candidates.resize(std::min(candidates.size(), most));
  Travel travel;
  std::ranges::transform(candidates, std::back_inserter(travel.direct), &Candidate::part);
  std::vector<ListPart> chosen = travel.direct;
  std::ranges::sort(chosen, in_list_order);
  travel.packed = without(parts, chosen);
  return travel;
}

}  // namespace dynatrain

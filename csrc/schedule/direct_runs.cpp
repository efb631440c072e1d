#include "schedule/direct_runs.hpp"

#include "dynatrain/base/checked.hpp"
#include "dynatrain/geometry/view.hpp"

#include <algorithm>
#include <functional>
#include <initializer_list>
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

/// Elements of the innermost dimensions that are dense in all views. Dimensions of size 1 do not
/// matter, whatever their strides.
std::int64_t dense_elems(const Shape& shape, std::initializer_list<const View*> views) {
  std::int64_t run = 1;
  for (int d = shape.rank() - 1; d >= 0; --d) {
    if (shape[d] == 1) {
      continue;
    }
    if (std::ranges::any_of(views, [&](const View* view) { return view->strides[d] != run; })) {
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

/// Whether a part, or a run in it, is to travel alone already.
bool overlaps_any(const std::vector<ListPart>& chosen, const ListPart& part) {
  return std::ranges::any_of(chosen, [&](const ListPart& other) {
    return other.move == part.move && other.begin_elem < part.end_elem &&
           part.begin_elem < other.end_elem;
  });
}

std::int64_t least_direct_bytes(std::int64_t threshold_bytes) {
  return std::max(threshold_bytes, kLeastThresholdBytes);
}

}  // namespace

std::vector<DenseRuns> dense_runs(const std::vector<Move>& moves,
                                  const ShardMap& source,
                                  const ShardMap& target,
                                  std::int64_t threshold_bytes) {
  std::vector<DenseRuns> runs;
  runs.reserve(moves.size());
  for (const Move& move : moves) {
    const std::int64_t elem_bytes = source.tensor(move.tensor).dtype.size_bytes;
    const std::int64_t least_elems = ceil_div(least_direct_bytes(threshold_bytes), elem_bytes);
    DenseRuns& run = runs.emplace_back();
    if (move.box.num_elements() < least_elems) {
      continue;
    }
    const auto src = view_of(source, move.tensor, move.src_rank, move.box);
    const auto dst = view_of(target, move.tensor, move.dst_rank, move.box);
    const auto elems_in = [&](std::initializer_list<const View*> views) {
      const std::int64_t elems = dense_elems(move.box.shape(), views);
      return elems >= least_elems ? elems : 0;
    };
    run.at_src = src ? elems_in({&*src}) : 0;
    run.at_dst = dst ? elems_in({&*dst}) : 0;
    run.at_both = src && dst ? elems_in({&*src, &*dst}) : 0;
  }
  return runs;
}

namespace {

struct Candidate {
  SinglePart single;
  std::int64_t saved_bytes = 0;  ///< of staging, at both ends together
};

/// Whether a part lies within one run.
bool is_dense(const ListPart& part, std::int64_t run_elems) {
  return run_elems > 0 && part.begin_elem / run_elems == (part.end_elem - 1) / run_elems;
}

std::int64_t num_ends(const SinglePart& single) {
  return std::int64_t{single.is_direct_at_src} + std::int64_t{single.is_direct_at_dst};
}

void add_candidates(std::vector<Candidate>& candidates,
                    const ListPart& part,
                    const DenseRuns& runs,
                    std::int64_t elem_bytes,
                    std::int64_t least_elems) {
  const auto add = [&](const SinglePart& single) {
    const std::int64_t size_bytes = (single.part.end_elem - single.part.begin_elem) * elem_bytes;
    candidates.push_back({single, size_bytes * num_ends(single)});
  };
  for (const ListPart& run : long_runs(part, runs.at_both, least_elems)) {
    add({run, true, true});
  }
  const SinglePart whole{part, is_dense(part, runs.at_src), is_dense(part, runs.at_dst)};
  if (num_ends(whole) == 1 && part.end_elem - part.begin_elem >= least_elems) {
    add(whole);
  }
}

}  // namespace

Travel choose_direct(const std::vector<ListPart>& parts,
                     const std::vector<Move>& moves,
                     const std::vector<DenseRuns>& runs,
                     const ShardMap& map,
                     const ScheduleOptions& options) {
  std::vector<Candidate> candidates;
  for (const ListPart& part : parts) {
    const std::int64_t elem_bytes = map.tensor(moves[part.move].tensor).dtype.size_bytes;
    const std::int64_t least =
        ceil_div(least_direct_bytes(options.direct_threshold_bytes), elem_bytes);
    add_candidates(candidates, part, runs[part.move], elem_bytes, least);
  }
  std::ranges::stable_sort(candidates, std::ranges::greater{}, &Candidate::saved_bytes);
  const auto most = static_cast<std::size_t>(std::max(options.max_direct_per_pair, 0));
  Travel travel;
  std::vector<ListPart> chosen;
  for (const Candidate& candidate : candidates) {
    if (chosen.size() < most && !overlaps_any(chosen, candidate.single.part)) {
      travel.singles.push_back(candidate.single);
      chosen.push_back(candidate.single.part);
    }
  }
  std::ranges::sort(chosen, in_list_order);
  travel.packed = without(parts, chosen);
  return travel;
}

}  // namespace dynatrain

#include "fingerprint/box_sum.hpp"

#include "dynatrain/base/checked.hpp"
#include "dynatrain/base/error.hpp"
#include "dynatrain/base/hash.hpp"
#include "dynatrain/execution/run_sum.hpp"
#include "dynatrain/geometry/view.hpp"

#include <algorithm>
#include <string>
#include <utility>

namespace dynatrain {
namespace {

constexpr std::int64_t kPieceBytes = 4LL << 20U;

/// Dimensions from the last one on that are one run both in the tensor and in memory; returns the
/// first of them, and the run's elements.
struct InnerRun {
  int first_dim = 0;
  std::int64_t count = 1;
  std::int64_t stride_elems = 1;
};

InnerRun inner_run(const Shape& shape, const Shape& global_shape, const Strides& strides) {
  InnerRun run{.first_dim = shape.rank(), .count = 1, .stride_elems = 1};
  std::int64_t index_stride = 1;
  for (int d = shape.rank() - 1; d >= 0; --d) {
    const bool is_first = run.count == 1;
    if (!is_first && shape[d] > 1 &&
        (index_stride != run.count || strides[d] != run.count * run.stride_elems)) {
      break;
    }
    if (is_first && shape[d] > 1) {
      if (index_stride != 1) {
        break;
      }
      run.stride_elems = strides[d];
    }
    run.count *= shape[d];
    run.first_dim = d;
    index_stride *= global_shape[d];
  }
  return run;
}

}  // namespace

std::uint64_t tensor_key(const LogicalTensor& tensor) {
  Hasher hasher;
  hasher.add(std::string_view(tensor.name));
  return hasher.digest();
}

void append_pieces(std::vector<SummedBox>& pieces,
                   const SummedBox& whole,
                   std::int64_t elem_bytes) {
  const std::int64_t size_bytes = checked_mul(whole.box.num_elements(), elem_bytes);
  int dim = 0;
  while (dim < whole.box.rank() && whole.box.dim(dim).size() == 1) {
    ++dim;
  }
  if (size_bytes <= kPieceBytes || dim == whole.box.rank()) {
    pieces.push_back(whole);
    return;
  }
  const Interval rows = whole.box.dim(dim);
  const std::int64_t step =
      std::max<std::int64_t>(1, rows.size() / ceil_div(size_bytes, kPieceBytes));
  for (std::int64_t begin = rows.begin; begin < rows.end; begin += step) {
    SummedBox piece = whole;
    piece.box.begin[dim] = begin;
    piece.box.end[dim] = std::min(begin + step, rows.end);
    append_pieces(pieces, piece, elem_bytes);
  }
}

View view_of(const LogicalTensor& tensor, const SummedBox& piece, const TensorMemory& memory) {
  const View view = sub_view(piece.fragment.box, piece.fragment.view, piece.box);
  const Shape shape = piece.box.shape();
  std::int64_t last = view.offset_elems;
  for (int d = 0; d < shape.rank(); ++d) {
    last += (shape[d] - 1) * view.strides[d];
  }
  const std::int64_t end_bytes = checked_mul(last + 1, tensor.dtype.size_bytes);
  const std::size_t id = piece.tensor.index();
  DYNATRAIN_CHECK(
      id < memory.base.size() && memory.base[id] != nullptr && end_bytes <= memory.size_bytes[id],
      "execution: the memory of '" + tensor.name + "' ends before what the map says it holds");
  return view;
}

std::uint64_t sum_box(const LogicalTensor& tensor,
                      const SummedBox& piece,
                      const View& view,
                      const std::byte* base) {
  const Box& box = piece.box;
  const Shape shape = box.shape();
  const Strides index_strides = row_major_strides(tensor.shape);
  const InnerRun inner = inner_run(shape, tensor.shape, view.strides);
  std::int64_t offset = view.offset_elems;
  std::int64_t index = 0;
  for (int d = 0; d < shape.rank(); ++d) {
    index += box.begin[d] * index_strides[d];
  }
  Dims at = Dims::filled(shape.rank(), 0);
  std::uint64_t sum = 0;
  for (std::int64_t left = box.num_elements(); left > 0; left -= inner.count) {
    sum += fingerprint_run({.data = base + offset * tensor.dtype.size_bytes,
                            .elem_bytes = tensor.dtype.size_bytes,
                            .stride_elems = inner.stride_elems,
                            .count = inner.count},
                           piece.key,
                           static_cast<std::uint64_t>(index));
    for (int d = inner.first_dim - 1; d >= 0; --d) {
      offset += view.strides[d];
      index += index_strides[d];
      if (++at[d] < shape[d]) {
        break;
      }
      offset -= at[d] * view.strides[d];
      index -= at[d] * index_strides[d];
      at[d] = 0;
    }
  }
  return sum;
}

}  // namespace dynatrain

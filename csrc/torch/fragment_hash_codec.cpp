#include "torch/fragment_hash_codec.hpp"

#include "dynatrain/base/error.hpp"

#include <cstring>

namespace dynatrain {
namespace {

void put(std::string& blob, std::uint64_t word) {
  blob.append(reinterpret_cast<const char*>(&word), sizeof(word));
}

void put(std::string& blob, const Dims& dims) {
  for (const std::int64_t value : dims.values()) {
    put(blob, static_cast<std::uint64_t>(value));
  }
}

/// Takes words off the front of a blob that may be anything.
class Words {
 public:
  explicit Words(std::string_view blob) : blob_(blob) {}

  [[nodiscard]] bool empty() const { return blob_.empty(); }

  std::uint64_t next() {
    std::uint64_t word = 0;
    if (blob_.size() < sizeof(word)) {
      fail();
    }
    std::memcpy(&word, blob_.data(), sizeof(word));
    blob_.remove_prefix(sizeof(word));
    return word;
  }

  /// The id of one of `num_tensors`; a larger number would be cut to that of another one.
  TensorId next_tensor(std::size_t num_tensors) {
    const std::uint64_t id = next();
    if (id >= num_tensors) {
      fail();
    }
    return TensorId(static_cast<std::int64_t>(id));
  }

  Dims next_dims(std::uint64_t rank) {
    if (rank > kMaxDims) {
      fail();
    }
    Dims dims = Dims::filled(static_cast<int>(rank), 0);
    for (int d = 0; d < dims.rank(); ++d) {
      dims[d] = static_cast<std::int64_t>(next());
    }
    return dims;
  }

 private:
  [[noreturn]] static void fail() {
    throw LayoutError(
        "layout: a rank's fragment hashes do not parse\n  expected the bytes of fragment_hashes()\n"
        "  nothing was moved\n  exchange the hashes again");
  }

  std::string_view blob_;
};

}  // namespace

std::string encode_hashes(std::span<const FragmentHash> hashes) {
  std::string blob;
  for (const FragmentHash& one : hashes) {
    put(blob, static_cast<std::uint64_t>(one.tensor.value));
    put(blob, static_cast<std::uint64_t>(one.box.rank()));
    put(blob, one.box.begin);
    put(blob, one.box.end);
    put(blob, one.hash);
  }
  return blob;
}

std::vector<FragmentHash> decode_hashes(std::string_view blob, std::size_t num_tensors) {
  std::vector<FragmentHash> hashes;
  Words words(blob);
  while (!words.empty()) {
    FragmentHash& one = hashes.emplace_back();
    one.tensor = words.next_tensor(num_tensors);
    const std::uint64_t rank = words.next();
    one.box.begin = words.next_dims(rank);
    one.box.end = words.next_dims(rank);
    one.hash = words.next();
  }
  return hashes;
}

}  // namespace dynatrain

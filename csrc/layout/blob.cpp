#include "layout/blob.hpp"

#include "dynatrain/base/hash.hpp"

#include "layout/describe.hpp"
#include <algorithm>
#include <limits>
#include <utility>

namespace dynatrain {
namespace {

constexpr std::string_view kMagic = "dynatrain map 1\n";
constexpr std::size_t kChecksumBytes = 8;
constexpr unsigned kVarintBits = 7;
constexpr std::uint64_t kVarintMask = 0x7f;

enum class Holding : std::uint8_t { kWhole, kCut, kFragments };

/// Appends non-negative numbers, 7 bits a byte, lowest first, and texts with their length.
class Writer {
 public:
  Writer() : bytes_(kMagic) {}

  void number(std::int64_t value) {
    if (value < 0) {
      refuse_map("cannot publish a descriptor",
                 "it has the negative number " + std::to_string(value),
                 "extents, ranks, offsets and strides are not negative");
    }
    auto rest = static_cast<std::uint64_t>(value);
    for (; rest > kVarintMask; rest >>= kVarintBits) {
      bytes_.push_back(static_cast<char>((rest & kVarintMask) | (kVarintMask + 1)));
    }
    bytes_.push_back(static_cast<char>(rest));
  }
  template <class Range>
  void numbers(const Range& values) {
    number(std::ssize(values));
    for (const auto value : values) {
      number(value);
    }
  }
  void text(std::string_view value) {
    number(std::ssize(value));
    bytes_ += value;
  }
  [[nodiscard]] std::string finish() && {
    const std::uint64_t checksum = blob_checksum(bytes_);
    for (std::size_t i = 0; i < kChecksumBytes; ++i) {
      bytes_.push_back(static_cast<char>((checksum >> (8 * i)) & 0xffU));
    }
    return std::move(bytes_);
  }

 private:
  std::string bytes_;
};

[[noreturn]] void refuse_bytes(const std::string& why) {
  refuse_map("cannot read a published map",
             why,
             "publish what encode_descriptors() returned, byte for byte, with one version of "
             "dynatrain on all ranks");
}

class Reader {
 public:
  explicit Reader(std::string_view bytes) : bytes_(bytes) {}

  /// A number in [0, most], in its shortest spelling.
  std::int64_t number(std::int64_t most = std::numeric_limits<std::int64_t>::max()) {
    std::uint64_t value = 0;
    unsigned shift = 0;
    while (true) {
      if (at_ == bytes_.size() || shift > 62) {
        refuse_bytes("a number is cut off or too long at byte " + std::to_string(at_));
      }
      const auto byte = static_cast<unsigned char>(bytes_[at_++]);
      value |= (byte & kVarintMask) << shift;
      if (byte <= kVarintMask) {
        if (byte == 0 && shift > 0) {
          refuse_bytes("a number is longer than it must be before byte " + std::to_string(at_));
        }
        break;
      }
      shift += kVarintBits;
    }
    return checked(static_cast<std::int64_t>(value), most);
  }
  /// How many items follow; each takes a byte at least, so a huge count cannot take memory.
  std::size_t count() {
    const std::int64_t items = number();
    return static_cast<std::size_t>(checked(items, std::ssize(bytes_.substr(at_))));
  }
  int small_number() { return static_cast<int>(number(std::numeric_limits<int>::max() - 1)); }
  std::vector<int> small_numbers() {
    std::vector<int> values(count());
    std::ranges::generate(values, [this] { return small_number(); });
    return values;
  }
  Dims dims() {
    std::vector<std::int64_t> values(static_cast<std::size_t>(number(kMaxDims)));
    std::ranges::generate(values, [this] { return number(); });
    return Dims(std::span<const std::int64_t>(values));
  }
  std::string text() {
    const std::size_t size = count();
    at_ += size;
    return std::string(bytes_.substr(at_ - size, size));
  }
  [[nodiscard]] bool at_end() const { return at_ == bytes_.size(); }

 private:
  [[nodiscard]] std::int64_t checked(std::int64_t value, std::int64_t most) const {
    if (value > most) {
      refuse_bytes("number " + std::to_string(value) + " before byte " + std::to_string(at_) +
                   " is over " + std::to_string(most));
    }
    return value;
  }

  std::string_view bytes_;
  std::size_t at_ = 0;
};

void write_cut(Writer& writer, const BlobCut& cut) {
  writer.numbers(cut.mesh.shape);
  writer.numbers(cut.mesh.ranks);
  writer.number(std::ssize(cut.placements));
  for (const Placement& placement : cut.placements) {
    const bool is_shard = placement.kind == Placement::Kind::kShard;
    writer.number(is_shard ? placement.split_factor : 0);  // 0 stands for Replicate
    writer.number(is_shard ? placement.dim : 0);
  }
}

BlobCut read_cut(Reader& reader) {
  BlobCut cut;
  cut.mesh.shape = reader.small_numbers();
  cut.mesh.ranks = reader.small_numbers();
  cut.mesh.check();
  cut.placements.resize(reader.count());
  for (Placement& placement : cut.placements) {
    const std::int64_t split_factor = reader.number(kMaxSplitFactor);
    const auto dim = static_cast<int>(reader.number(kMaxDims));
    if (split_factor > 0) {
      placement = {Placement::Kind::kShard, dim, split_factor};
    } else if (dim > 0) {
      refuse_bytes("a replicated mesh dimension cuts dimension " + std::to_string(dim));
    }
  }
  return cut;
}

void write_tensor(Writer& writer, const BlobTensor& item) {
  writer.text(item.tensor.name);
  writer.numbers(item.tensor.shape.values());
  writer.text(item.tensor.dtype.name);
  writer.number(item.tensor.dtype.size_bytes);
  const Holding holding = item.cut >= 0            ? Holding::kCut
                          : item.fragments.empty() ? Holding::kWhole
                                                   : Holding::kFragments;
  writer.number(static_cast<int>(holding));
  if (holding == Holding::kCut) {
    writer.number(item.cut);
  } else if (holding == Holding::kFragments) {
    writer.number(std::ssize(item.fragments));
    for (const Fragment& fragment : item.fragments) {
      writer.numbers(fragment.box.begin.values());
      writer.numbers(fragment.box.end.values());
      writer.number(fragment.view.offset_elems);
      writer.numbers(fragment.view.strides.values());
    }
  }
}

BlobTensor read_tensor(Reader& reader, std::size_t num_cuts) {
  BlobTensor item;
  item.tensor.name = reader.text();
  item.tensor.shape = reader.dims();
  item.tensor.dtype.name = reader.text();
  item.tensor.dtype.size_bytes = reader.number();
  const auto holding = static_cast<Holding>(reader.number(static_cast<int>(Holding::kFragments)));
  if (holding == Holding::kCut) {
    item.cut = reader.number();
    if (std::cmp_greater_equal(item.cut, num_cuts)) {
      refuse_bytes("'" + item.tensor.name + "' names cut " + std::to_string(item.cut) + " of " +
                   std::to_string(num_cuts));
    }
  } else if (holding == Holding::kFragments) {
    const std::size_t num_fragments = reader.count();
    if (num_fragments == 0) {
      refuse_bytes("'" + item.tensor.name + "' has a list of no fragments");
    }
    for (std::size_t i = 0; i < num_fragments; ++i) {
      Fragment& fragment = item.fragments.emplace_back();
      fragment.box.begin = reader.dims();
      fragment.box.end = reader.dims();
      fragment.view.offset_elems = reader.number();
      fragment.view.strides = reader.dims();
    }
  }
  return item;
}

}  // namespace

std::uint64_t blob_checksum(std::string_view body) {
  Hasher hasher;
  hasher.add(body);
  return hasher.digest();
}

std::string encode_blob(const Blob& blob) {
  Writer writer;
  writer.number(std::ssize(blob.cuts));
  for (const BlobCut& cut : blob.cuts) {
    write_cut(writer, cut);
  }
  writer.number(std::ssize(blob.tensors));
  for (const BlobTensor& item : blob.tensors) {
    write_tensor(writer, item);
  }
  return std::move(writer).finish();
}

Blob decode_blob(std::string_view bytes) {
  if (!bytes.starts_with(kMagic) || bytes.size() < kMagic.size() + kChecksumBytes) {
    refuse_bytes("it does not begin as a map of this version of dynatrain does");
  }
  const std::string_view body = bytes.substr(0, bytes.size() - kChecksumBytes);
  std::uint64_t checksum = 0;
  for (std::size_t i = 0; i < kChecksumBytes; ++i) {
    const auto byte = static_cast<unsigned char>(bytes[body.size() + i]);
    checksum |= static_cast<std::uint64_t>(byte) << (8 * i);
  }
  if (checksum != blob_checksum(body)) {
    refuse_bytes("its checksum differs: some of its " + std::to_string(bytes.size()) +
                 " bytes changed on the way");
  }
  Reader reader(body.substr(kMagic.size()));
  Blob blob;
  const std::size_t num_cuts = reader.count();
  for (std::size_t i = 0; i < num_cuts; ++i) {
    blob.cuts.push_back(read_cut(reader));
  }
  const std::size_t num_tensors = reader.count();
  for (std::size_t i = 0; i < num_tensors; ++i) {
    blob.tensors.push_back(read_tensor(reader, num_cuts));
    if (i > 0 && blob.tensors[i].tensor.name <= blob.tensors[i - 1].tensor.name) {
      refuse_bytes("'" + blob.tensors[i].tensor.name + "' is out of order or named twice");
    }
  }
  if (!reader.at_end()) {
    refuse_bytes("bytes are left over behind its last tensor");
  }
  return blob;
}

}  // namespace dynatrain

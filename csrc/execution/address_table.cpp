#include "dynatrain/base/error.hpp"
#include "dynatrain/execution/copier.hpp"

#include <atomic>
#include <string>

namespace dynatrain {
namespace {

/// Never the same twice in a process.
std::uint64_t next_revision() {
  static std::atomic<std::uint64_t> last{0};
  return ++last;
}

}  // namespace

void AddressTable::set(BufferId id, std::byte* base, std::int64_t size_bytes) {
  set_source(id, {.base = base}, size_bytes);
}

void AddressTable::set_source(BufferId id, SourceAddress source, std::int64_t size_bytes) {
  DYNATRAIN_CHECK(id.value >= 0, "execution: a buffer id is negative");
  if (regions_.size() <= id.index()) {
    regions_.resize(id.index() + 1);
  }
  // The table has one kind of address for sources and targets.
  regions_[id.index()] = {.base = const_cast<std::byte*>(source.base),
                          .size_bytes = size_bytes,
                          .present = true,
                          .process = source.process,
                          .rank = source.rank};
  revision_ = next_revision();
}

void AddressTable::throw_no_address(BufferId id) {
  throw InternalError(
      "execution: buffer " + std::to_string(id.value) +
      " has no address\n  a copy names it, but it was not patched in before the copy ran\n"
      "  nothing was written; please report this as a bug of dynatrain");
}

}  // namespace dynatrain

#include "dynatrain/base/error.hpp"
#include "dynatrain/execution/copier.hpp"

#include <string>

namespace dynatrain {
namespace {

std::string no_address(BufferId id) {
  return "execution: buffer " + std::to_string(id.value) +
         " has no address\n  a copy names it, but it was not patched in before the copy ran\n"
         "  nothing was written; please report this as a bug of dynatrain";
}

}  // namespace

void AddressTable::set(BufferId id, std::byte* base, std::int64_t size_bytes) {
  DYNATRAIN_CHECK(id.value >= 0, "execution: a buffer id is negative");
  if (regions_.size() <= id.index()) {
    regions_.resize(id.index() + 1);
  }
  regions_[id.index()] = {.base = base, .size_bytes = size_bytes, .present = true};
}

std::byte* AddressTable::base(BufferId id) const {
  if (!has(id)) {
    throw InternalError(no_address(id));
  }
  return regions_[id.index()].base;
}

std::int64_t AddressTable::size_bytes(BufferId id) const {
  if (!has(id)) {
    throw InternalError(no_address(id));
  }
  return regions_[id.index()].size_bytes;
}

bool AddressTable::has(BufferId id) const {
  return id.value >= 0 && id.index() < regions_.size() && regions_[id.index()].present;
}

}  // namespace dynatrain

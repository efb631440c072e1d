#pragma once

#include "dynatrain/execution/executor.hpp"

#include <cstddef>
#include <cstdint>
#include <map>
#include <utility>
#include <vector>

namespace dynatrain {

/// What one rank exposed for one plan, and where the sources of its peers lie in this process.
struct SourceMap {
  std::vector<std::pair<int, std::uint64_t>> lists;  ///< peer and hash of each list of the plan
  std::vector<ExposedBuffer> exposed;                ///< by tensor
  std::map<std::pair<int, TensorId>, const std::byte*> mapped;
};

/// The source buffers that this rank's peers read by the plan.
[[nodiscard]] std::vector<ExposedBuffer> exposed_by(const Plan& plan, const TensorMemory& memory);

/// Publishes this rank's sources and maps those of its peers. Collective.
/// Errors: as OneSided.
[[nodiscard]] SourceMap make_source_map(OneSided& one_sided,
                                        const Plan& plan,
                                        const TensorMemory& memory,
                                        Deadline deadline);

/// Errors: InternalError when the map was made for another plan or for other addresses.
void check_made_for(const SourceMap& map, const Plan& plan, const TensorMemory& memory);

}  // namespace dynatrain

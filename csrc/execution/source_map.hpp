#pragma once

#include "dynatrain/execution/executor.hpp"

#include <cstddef>
#include <cstdint>
#include <map>
#include <utility>
#include <vector>

namespace dynatrain {

/// What a rank has open for one run: its own memory to its peers, and theirs in this process. It is
/// closed with the last owner, whatever became of the run.
/// Ownership  the one-sided part must outlive it, unless it was closed.
/// Threads    those of the one-sided part.
class OpenSources {
 public:
  explicit OpenSources(OneSided& one_sided) : one_sided_(&one_sided) {}
  ~OpenSources() { close(); }
  OpenSources(const OpenSources&) = delete;
  OpenSources& operator=(const OpenSources&) = delete;
  OpenSources(OpenSources&&) = delete;
  OpenSources& operator=(OpenSources&&) = delete;

  [[nodiscard]] bool is_open() const { return one_sided_ != nullptr; }
  /// Lets go of the peers' memory and withdraws this rank's. A second time does nothing.
  void close() noexcept;

 private:
  OneSided* one_sided_;
};

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

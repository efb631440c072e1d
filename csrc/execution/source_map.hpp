#pragma once

#include "dynatrain/execution/executor.hpp"

#include "execution/notes.hpp"
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
  std::map<std::pair<int, TensorId>, SourceAddress> mapped;
};

/// The source buffers that this rank's peers read by the plan.
[[nodiscard]] std::vector<ExposedBuffer> exposed_by(const Plan& plan, const TensorMemory& memory);

/// A source as this rank has it, and what is to be moved of it.
struct SourceInputs {
  const Plan& plan;
  const ShardMap& map;
  const TensorMemory& memory;
};

struct DividedSources {
  DividedPlan plans;
  SourceMap map;  ///< of what is read in place
};

/// Publishes this rank's sources, maps those of the peers that it reaches, and agrees with each on
/// what is read in place. Collective.
///
/// Errors  TransportError when a peer is gone or late, or exposes other moves than are read.
/// Cost    one publication a rank, one read for each owner, and one word for each pair.
/// Source  own; docs/design/execution.md, "The one-sided run".
[[nodiscard]] DividedSources divide_sources(OneSided& one_sided,
                                            const Ports& ports,
                                            const SourceInputs& source,
                                            Deadline deadline);

/// Errors: InternalError when the map was made for another plan or for other addresses.
void check_made_for(const SourceMap& map, const Plan& plan, const TensorMemory& memory);

}  // namespace dynatrain

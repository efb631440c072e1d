#pragma once

#include "dynatrain/execution/stream.hpp"

#include "execution/program.hpp"
#include "execution/run.hpp"
#include <cstddef>
#include <vector>

namespace dynatrain {

/// Takes and frees memory between the stages of a run. Before stage k a rank has landed k - 1 of
/// them, and waits until every rank has landed k - 3: what was told two stages ago.
class StreamedStages {
 public:
  /// Ownership  keeps references to what `inputs` is streamed by; it has to be.
  StreamedStages(const RunInputs& inputs, const BufferIds& ids);

  /// Frees and takes what the plan has before stage k, and names the memory in the table.
  void before_stage(const RunCall& call, std::size_t k, AddressTable& addresses);
  /// Behind the last stage: frees the rest, when all ranks have landed everything.
  void end(const RunCall& call);

 private:
  void tell(const RunCall& call, std::size_t landed);
  /// Waits for what was told at the `number`-th time, which every rank has landed by then.
  void free_behind(const RunCall& call, std::size_t number, const std::vector<int>& storages);

  const RunInputs& inputs_;
  const Streaming& streaming_;
  BufferIds ids_;
  std::vector<std::vector<TensorId>> tensors_of_;  ///< by target storage
  std::vector<Token> told_;
  std::vector<int> landed_;  ///< what was told, each time
};

}  // namespace dynatrain

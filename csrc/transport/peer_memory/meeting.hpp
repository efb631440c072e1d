#pragma once

#include "dynatrain/transport/store.hpp"

#include "transport/peer_memory/peer_wait.hpp"
#include <functional>
#include <string>
#include <vector>

namespace dynatrain {

/// Where some ranks tell the first of them a word, and it answers all of them with one.
struct Meeting {
  int rank = 0;
  const std::vector<int>& ranks;  ///< ascending
  Store& store;
  const PeerWait& wait;
};

/// When the first rank gives up: early enough for the others to hear from it who is missing.
[[nodiscard]] Deadline deadline_of_first(Deadline deadline);

/// Returns what `answer` makes of the words of all ranks, in their order; it is called on the
/// first. Collective over the ranks; `purpose` is used once.
/// Errors  TransportError as wait_for_word, or as `answer` throws it on the first rank: the same on
///         all ranks that wait for the answer.
/// Cost    one set and one wait a rank; on the first a wait for each and one set.
[[nodiscard]] std::string meet(
    const Meeting& meeting,
    const std::string& purpose,
    const std::string& word,
    const std::function<std::string(const std::vector<std::string>& words)>& answer);

}  // namespace dynatrain

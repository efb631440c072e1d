#include "transport/peer_memory/meeting.hpp"

#include "dynatrain/base/error.hpp"

#include "transport/peer_memory/words.hpp"
#include <algorithm>
#include <chrono>
#include <cstdint>
#include <span>

namespace dynatrain {
namespace {

constexpr std::uint64_t kAnswered = 0;
constexpr std::uint64_t kFailed = 1;

std::vector<std::string> gather(const Meeting& meeting,
                                const std::string& purpose,
                                const std::string& word) {
  std::vector<std::string> words{word};
  for (const int peer : std::span(meeting.ranks).subspan(1)) {
    words.push_back(
        wait_for_word(meeting.store, purpose + "/" + std::to_string(peer), peer, meeting.wait));
  }
  return words;
}

/// As far as the store still takes it: it may be what failed.
void tell_failure(Store& store, const std::string& answer_key, const TransportError& error) {
  WordWriter out;
  out.number(kFailed);
  out.number(static_cast<std::uint64_t>(error.peer));
  out.number(error.retryable ? 1 : 0);
  out.text(error.what());
  try {
    store.set(answer_key, out.take());
  } catch (const TransportError&) {
    return;  // the others end at their deadline; the first error is thrown on
  }
}

std::string read_answer(const std::string& words, int first) {
  WordReader in(words, first);
  if (in.number() == kAnswered) {
    return in.text();
  }
  const auto peer = static_cast<int>(in.number());
  const bool is_retryable = in.number() != 0;
  throw TransportError(in.text(), peer, -1, is_retryable);
}

}  // namespace

Deadline deadline_of_first(Deadline deadline) {
  using Clock = std::chrono::steady_clock;
  const Clock::duration left = deadline - Clock::now();
  const Clock::duration earlier =
      std::clamp<Clock::duration>(left / 8, Clock::duration::zero(), std::chrono::seconds(1));
  return deadline - earlier;
}

std::string meet(const Meeting& meeting,
                 const std::string& purpose,
                 const std::string& word,
                 const std::function<std::string(const std::vector<std::string>&)>& answer) {
  const std::string answer_key = purpose + "/all";
  const int first = meeting.ranks.front();
  if (meeting.rank != first) {
    meeting.store.set(purpose + "/" + std::to_string(meeting.rank), word);
    return read_answer(wait_for_word(meeting.store, answer_key, first, meeting.wait), first);
  }
  try {
    const std::string answered = answer(gather(meeting, purpose, word));
    WordWriter out;
    out.number(kAnswered);
    out.text(answered);
    meeting.store.set(answer_key, out.take());
    return answered;
  } catch (const TransportError& error) {
    tell_failure(meeting.store, answer_key, error);
    throw;
  }
}

}  // namespace dynatrain

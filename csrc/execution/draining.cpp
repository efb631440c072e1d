#include "execution/draining.hpp"

namespace dynatrain {

bool drain(std::span<const Token> tokens, Deadline deadline) noexcept {
  bool all_ended = true;
  for (const Token& token : tokens) {
    try {
      token.wait(deadline);
    } catch (...) {
      all_ended = all_ended && token.done();
    }
  }
  return all_ended;
}

}  // namespace dynatrain

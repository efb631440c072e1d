#include "base/clipped.hpp"

namespace dynatrain {
namespace {

/// Whether a byte goes on with a character of UTF-8 that an earlier one has begun.
bool goes_on(char byte) {
  return (static_cast<unsigned char>(byte) & 0xC0U) == 0x80U;
}

}  // namespace

std::string clipped(std::string text, std::size_t max_bytes) {
  if (text.size() > max_bytes) {
    std::size_t end = max_bytes;
    while (end > 0 && goes_on(text[end])) {
      --end;
    }
    text.resize(end);
  }
  return text;
}

}  // namespace dynatrain

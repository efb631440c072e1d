#pragma once

#include <cstddef>
#include <string>

namespace dynatrain {

/// The begin of a text, `max_bytes` long at most, that ends with a whole character where the text
/// is UTF-8: half of one is no text for whoever reads it.
[[nodiscard]] std::string clipped(std::string text, std::size_t max_bytes);

}  // namespace dynatrain

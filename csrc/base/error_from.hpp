#pragma once

#include <exception>

namespace dynatrain {

/// The error that `make` returns; where there is no memory for its text, that. For places that
/// must not throw, as those that keep an error for whoever waits.
template <class Make>
[[nodiscard]] std::exception_ptr error_from(const Make& make) noexcept {
  try {
    return std::make_exception_ptr(make());
  } catch (...) {
    return std::current_exception();
  }
}

}  // namespace dynatrain

#pragma once

#include "dynatrain/execution/transport.hpp"

#include <exception>

namespace dynatrain {

/// Ends a transport with the words of `error`, which every peer then hears.
inline void abort_because(const std::exception_ptr& error, Transport& transport) noexcept {
  try {
    std::rethrow_exception(error);
  } catch (const std::exception& known) {
    transport.abort(known.what());
  } catch (...) {
    transport.abort("an error of unknown type");
  }
}

}  // namespace dynatrain

#pragma once

#include <cstdlib>  // defines __GLIBC__ where it is one
#ifdef __GLIBC__
#include <malloc.h>
#endif

namespace dynatrain {

/// Gives the system what the C library's heap keeps of freed memory: tensors that go between others
/// that stay leave holes there, which the next state does not fit. Some milliseconds.
inline void trim_heap() noexcept {
#ifdef __GLIBC__
  malloc_trim(0);
#endif
}

}  // namespace dynatrain

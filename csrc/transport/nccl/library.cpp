#include "transport/nccl/library.hpp"

#include <dlfcn.h>

namespace dynatrain {

Library::Library(const std::vector<std::string>& names) {
  for (const int way : {RTLD_NOLOAD, RTLD_LOCAL}) {
    for (const std::string& name : names) {
      if (handle_ == nullptr) {
        handle_ = dlopen(name.c_str(), RTLD_NOW | way);
      }
    }
  }
  if (handle_ == nullptr) {
    const char* const reason = dlerror();
    problem_ = reason != nullptr ? reason : "it was not found";
  }
}

void* Library::find(const char* symbol) const {
  return handle_ == nullptr ? nullptr : dlsym(handle_, symbol);
}

}  // namespace dynatrain

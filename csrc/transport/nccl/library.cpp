#include "transport/nccl/library.hpp"

#include <dlfcn.h>

namespace dynatrain {

Library::Library(const std::vector<std::string>& names, const std::string& path) {
  for (const std::string& name : names) {
    if (handle_ == nullptr) {
      handle_ = dlopen(name.c_str(), RTLD_NOW | RTLD_NOLOAD);
    }
  }
  if (handle_ == nullptr && !path.empty()) {
    handle_ = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  } else {
    for (const std::string& name : names) {
      if (handle_ == nullptr) {
        handle_ = dlopen(name.c_str(), RTLD_NOW | RTLD_LOCAL);
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

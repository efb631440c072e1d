#pragma once

#include <string>
#include <vector>

namespace dynatrain {

/// A shared library of this process, never unloaded: what it returned may be in use until the end.
class Library {
 public:
  /// Looks for `names` among the loaded libraries, then opens them.
  explicit Library(const std::vector<std::string>& names);

  /// Why it was not found; empty when it was.
  [[nodiscard]] const std::string& problem() const { return problem_; }
  /// The address of `symbol`, or null.
  [[nodiscard]] void* find(const char* symbol) const;
  /// Sets `function` to `symbol`; a missing one is the library's problem.
  template <class Function>
  void require(Function*& function, const char* symbol) {
    function = reinterpret_cast<Function*>(find(symbol));
    if (function == nullptr && problem_.empty()) {
      problem_ = std::string("it has no ") + symbol;
    }
  }

 private:
  void* handle_ = nullptr;
  std::string problem_;
};

}  // namespace dynatrain

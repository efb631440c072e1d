#pragma once

#include <pybind11/pybind11.h>

#include <cstddef>
#include <string_view>

namespace dynatrain {

/// Reads one value from bytes that anybody may have written. Errors of every method: those of
/// Words::decode().
class WordsIn {
 public:
  /// `kinds` has the class of a record and the number of its fields by its name.
  WordsIn(std::string_view blob, pybind11::handle kinds) : blob_(blob), kinds_(kinds) {}

  [[nodiscard]] pybind11::object value(int depth);
  void check_end() const;

 private:
  [[nodiscard]] pybind11::object of_letter(char letter, int depth);
  [[nodiscard]] pybind11::object whole();
  [[nodiscard]] pybind11::object text();
  [[nodiscard]] pybind11::object number();
  [[nodiscard]] pybind11::object record(int depth);
  [[nodiscard]] pybind11::object range(int depth);
  [[nodiscard]] pybind11::object items(bool are_tuple, int depth);
  [[nodiscard]] pybind11::object pairs(int depth);
  [[nodiscard]] std::size_t item_count();
  [[nodiscard]] std::string_view counted();
  [[nodiscard]] std::string_view take(std::size_t size);

  std::string_view blob_;
  pybind11::handle kinds_;
  std::size_t at_ = 0;
};

}  // namespace dynatrain

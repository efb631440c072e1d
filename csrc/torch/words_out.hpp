#pragma once

#include <pybind11/pybind11.h>

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace dynatrain {

/// The bytes of one value, written part by part. Errors of every method: those of Words::encode().
class WordsOut {
 public:
  /// `told` has the names and fields of records by their class.
  explicit WordsOut(pybind11::handle told) : told_(told) {}

  void value(pybind11::handle value);
  [[nodiscard]] const std::string& bytes() const { return out_; }

 private:
  bool single(pybind11::handle value);
  void collection(pybind11::handle value);
  void whole(pybind11::handle value);
  void text(pybind11::handle value);
  void record(pybind11::handle value);
  void range(pybind11::handle value);
  void items(char letter, pybind11::handle sequence);
  void pairs(pybind11::handle dict);
  void set(pybind11::handle frozenset);
  void count(std::size_t count);
  void counted(char letter, std::string_view content);

  pybind11::handle told_;
  std::string out_;
};

}  // namespace dynatrain

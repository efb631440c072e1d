#pragma once

#include <pybind11/pybind11.h>

#include <string>

namespace dynatrain {

/// Writes and reads what ranks tell each other in small exchanges; python/dynatrain/words.py says
/// what the bytes are.
///
/// Threads  the GIL is held throughout.
class Words {
 public:
  /// Lets values of `kind` be told, by `name`; `fields` are its attributes, which make it in this
  /// order.
  void add(const pybind11::type& kind, const pybind11::str& name, const pybind11::tuple& fields);

  /// The bytes of a value. Errors: TypeError where there is no word for it or a part of it.
  [[nodiscard]] pybind11::bytes encode(pybind11::handle value) const;

  /// The value of `blob`. Errors: ValueError, TypeError or KeyError for bytes that encode() does
  /// not write; no size in them is believed before it is held against the bytes that are there.
  [[nodiscard]] pybind11::object decode(const pybind11::bytes& blob) const;

 private:
  pybind11::dict told_;   ///< by class: name and names of the fields
  pybind11::dict kinds_;  ///< by name: class and number of the fields
};

}  // namespace dynatrain

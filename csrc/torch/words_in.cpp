#include "torch/words_in.hpp"

#include <cstdint>
#include <cstring>
#include <string>
#include <utility>

namespace dynatrain {

namespace py = pybind11;

namespace {

constexpr int kMostNested = 32;

py::object checked(PyObject* made) {
  if (made == nullptr) {
    throw py::error_already_set();
  }
  return py::reinterpret_steal<py::object>(made);
}

Py_ssize_t signed_size(std::size_t size) {
  return static_cast<Py_ssize_t>(size);
}

}  // namespace

void WordsIn::check_end() const {
  if (at_ != blob_.size()) {
    throw py::value_error(std::to_string(blob_.size() - at_) + " bytes are left over");
  }
}

py::object WordsIn::value(int depth) {
  if (depth > kMostNested) {
    throw py::value_error("values are nested more than " + std::to_string(kMostNested) + " deep");
  }
  return of_letter(take(1).front(), depth);
}

py::object WordsIn::of_letter(char letter, int depth) {
  switch (letter) {
    case 'N':
      return py::none();
    case 'T':
      return py::bool_(true);
    case 'F':
      return py::bool_(false);
    case 'I':
      return whole();
    case 'D':
      return number();
    case 'S':
      return text();
    case 'B': {
      const std::string_view content = counted();
      return py::bytes(content.data(), content.size());
    }
    case 't':
    case 'l':
      return items(letter == 't', depth);
    case 's':
      return checked(PyFrozenSet_New(items(true, depth).ptr()));
    case 'd':
      return pairs(depth);
    case 'r':
      return range(depth);
    case 'R':
      return record(depth);
    default:
      throw py::value_error("no value begins with byte " +
                            std::to_string(static_cast<unsigned char>(letter)));
  }
}

py::object WordsIn::whole() {
  const std::string_view content = counted();
  if (content.size() > sizeof(std::uint64_t)) {
    const py::handle of_bytes(reinterpret_cast<PyObject*>(&PyLong_Type));
    return of_bytes.attr("from_bytes")(
        py::bytes(content.data(), content.size()), "little", py::arg("signed") = true);
  }
  const bool is_negative = !content.empty() && (content.back() & '\x80') != 0;
  std::uint64_t bits = is_negative ? ~std::uint64_t{0} : 0;
  std::memcpy(&bits, content.data(), content.size());
  return checked(PyLong_FromLongLong(static_cast<std::int64_t>(bits)));
}

py::object WordsIn::text() {
  const std::string_view content = counted();
  const char* const begin = content.data();
  return checked(PyUnicode_DecodeUTF8(begin, signed_size(content.size()), "surrogatepass"));
}

py::object WordsIn::number() {
  double number = 0.0;
  std::memcpy(&number, take(sizeof(number)).data(), sizeof(number));
  return py::float_(number);
}

py::object WordsIn::record(int depth) {
  const py::object name = value(depth + 1);
  const py::object given = value(depth + 1);
  const py::handle found(PyDict_GetItemWithError(kinds_.ptr(), name.ptr()));
  if (!found) {
    if (PyErr_Occurred() != nullptr) {
      throw py::error_already_set();
    }
    throw py::key_error(py::repr(name).cast<std::string>());
  }
  const auto [kind, num_fields] = found.cast<std::pair<py::object, std::size_t>>();
  if (Py_TYPE(given.ptr()) != &PyTuple_Type || py::len(given) != num_fields) {
    throw py::value_error("a " + py::str(name).cast<std::string>() + " has " +
                          std::to_string(num_fields) + " fields");
  }
  return checked(PyObject_CallObject(kind.ptr(), given.ptr()));
}

py::object WordsIn::range(int depth) {
  const py::object parts = value(depth + 1);
  if (Py_TYPE(parts.ptr()) != &PyTuple_Type) {
    throw py::value_error("a range has a begin, an end and a step");
  }
  return checked(PyObject_CallObject(reinterpret_cast<PyObject*>(&PyRange_Type), parts.ptr()));
}

py::object WordsIn::items(bool are_tuple, int depth) {
  const std::size_t count = item_count();
  const Py_ssize_t size = signed_size(count);
  py::object all = checked(are_tuple ? PyTuple_New(size) : PyList_New(size));
  for (Py_ssize_t i = 0; i < size; ++i) {
    PyObject* const item = value(depth + 1).release().ptr();
    if (are_tuple) {
      PyTuple_SET_ITEM(all.ptr(), i, item);
    } else {
      PyList_SET_ITEM(all.ptr(), i, item);
    }
  }
  return all;
}

py::object WordsIn::pairs(int depth) {
  py::dict all;
  for (std::size_t left = item_count(); left > 0; --left) {
    const py::object pair = value(depth + 1);
    if (Py_TYPE(pair.ptr()) != &PyTuple_Type || py::len(pair) != 2) {
      throw py::value_error("a dict has pairs of a key and a value");
    }
    if (PyDict_SetItem(
            all.ptr(), PyTuple_GET_ITEM(pair.ptr(), 0), PyTuple_GET_ITEM(pair.ptr(), 1)) != 0) {
      throw py::error_already_set();
    }
  }
  return all;
}

std::size_t WordsIn::item_count() {
  std::uint32_t count = 0;
  std::memcpy(&count, take(sizeof(count)).data(), sizeof(count));
  const std::size_t left = blob_.size() - at_;
  if (count > left) {  // an item takes a byte at least
    throw py::value_error(std::to_string(count) + " items were announced in " +
                          std::to_string(left) + " bytes");
  }
  return count;
}

std::string_view WordsIn::counted() {
  std::uint32_t size = 0;
  std::memcpy(&size, take(sizeof(size)).data(), sizeof(size));
  return take(size);
}

std::string_view WordsIn::take(std::size_t size) {
  const std::size_t left = blob_.size() - at_;
  if (size > left) {
    throw py::value_error(std::to_string(size) + " bytes were announced and " +
                          std::to_string(left) + " are there");
  }
  at_ += size;
  return blob_.substr(at_ - size, size);
}

}  // namespace dynatrain

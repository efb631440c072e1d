#include "torch/words_out.hpp"

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <limits>
#include <vector>

namespace dynatrain {

namespace py = pybind11;

namespace {

/// The shortest two's complement of a number that has a bit for its sign, little-endian.
std::string_view shortest(std::uint64_t magnitude, bool is_negative, std::array<char, 9>& room) {
  const std::uint64_t bits = is_negative ? ~magnitude + 1 : magnitude;
  const auto size = static_cast<std::size_t>(std::bit_width(magnitude)) / 8 + 1;
  for (std::size_t i = 0; i < sizeof(bits); ++i) {
    room[i] = static_cast<char>(bits >> (8 * i));
  }
  room[sizeof(bits)] = is_negative ? '\xff' : '\0';
  return {room.data(), size};
}

/// Python's own guard against values that hold themselves.
class Deeper {
 public:
  Deeper() {
    if (Py_EnterRecursiveCall(" while a value was told") != 0) {
      throw py::error_already_set();
    }
  }
  Deeper(const Deeper&) = delete;
  Deeper& operator=(const Deeper&) = delete;
  Deeper(Deeper&&) = delete;
  Deeper& operator=(Deeper&&) = delete;
  ~Deeper() { Py_LeaveRecursiveCall(); }
};

}  // namespace

void WordsOut::value(py::handle value) {
  PyTypeObject* const kind = Py_TYPE(value.ptr());
  if (single(value)) {
    return;
  }
  if (kind == &PyLong_Type) {
    whole(value);
  } else if (kind == &PyUnicode_Type) {
    text(value);
  } else if (kind == &PyBytes_Type) {
    counted('B', {PyBytes_AS_STRING(value.ptr()), static_cast<std::size_t>(Py_SIZE(value.ptr()))});
  } else if (kind == &PyFloat_Type) {
    const double number = PyFloat_AS_DOUBLE(value.ptr());
    out_.push_back('D');
    out_.append(reinterpret_cast<const char*>(&number), sizeof(number));
  } else {
    const Deeper deeper;
    collection(value);
  }
}

bool WordsOut::single(py::handle value) {
  if (value.is_none() || value.ptr() == Py_True || value.ptr() == Py_False) {
    out_.push_back(value.is_none() ? 'N' : value.ptr() == Py_True ? 'T' : 'F');
    return true;
  }
  return false;
}

void WordsOut::collection(py::handle value) {
  PyTypeObject* const kind = Py_TYPE(value.ptr());
  if (kind == &PyTuple_Type) {
    items('t', value);
  } else if (kind == &PyList_Type) {
    items('l', value);
  } else if (kind == &PyDict_Type) {
    pairs(value);
  } else if (kind == &PyFrozenSet_Type) {
    set(value);
  } else if (kind == &PyRange_Type) {
    range(value);
  } else {
    record(value);
  }
}

void WordsOut::whole(py::handle value) {
  std::array<char, 9> room{};
  int overflow = 0;
  const long long number = PyLong_AsLongLongAndOverflow(value.ptr(), &overflow);
  if (overflow == 0) {
    const auto bits = static_cast<std::uint64_t>(number);
    counted('I', shortest(number < 0 ? ~bits + 1 : bits, number < 0, room));
    return;
  }
  const auto num_bits = value.attr("bit_length")().cast<std::size_t>();
  if (overflow > 0 && num_bits <= std::numeric_limits<std::uint64_t>::digits) {
    counted('I', shortest(PyLong_AsUnsignedLongLong(value.ptr()), false, room));
    return;
  }
  const py::bytes all =
      value.attr("to_bytes")(num_bits / 8 + 1, "little", py::arg("signed") = true);
  counted('I', std::string_view(all));
}

void WordsOut::text(py::handle value) {
  const auto all = py::reinterpret_steal<py::bytes>(
      PyUnicode_AsEncodedString(value.ptr(), "utf-8", "surrogatepass"));
  if (!all) {
    throw py::error_already_set();
  }
  counted('S', std::string_view(all));
}

void WordsOut::record(py::handle value) {
  const py::handle kind(reinterpret_cast<PyObject*>(Py_TYPE(value.ptr())));
  const py::handle told(PyDict_GetItemWithError(told_.ptr(), kind.ptr()));
  if (!told) {
    if (PyErr_Occurred() != nullptr) {
      throw py::error_already_set();
    }
    throw py::type_error(py::str(kind.attr("__name__")).cast<std::string>());
  }
  const auto [name, fields] = told.cast<std::pair<py::str, py::tuple>>();
  out_.push_back('R');
  text(name);
  out_.push_back('t');
  count(fields.size());
  for (const py::handle field : fields) {
    this->value(py::getattr(value, field));
  }
}

void WordsOut::range(py::handle value) {
  out_.push_back('r');
  items('t', py::make_tuple(value.attr("start"), value.attr("stop"), value.attr("step")));
}

void WordsOut::items(char letter, py::handle sequence) {
  out_.push_back(letter);
  const Py_ssize_t size = PySequence_Fast_GET_SIZE(sequence.ptr());
  count(static_cast<std::size_t>(size));
  for (Py_ssize_t i = 0; i < size; ++i) {
    value(PySequence_Fast_GET_ITEM(sequence.ptr(), i));
  }
}

void WordsOut::pairs(py::handle dict) {
  out_.push_back('d');
  count(static_cast<std::size_t>(PyDict_Size(dict.ptr())));
  PyObject* key = nullptr;
  PyObject* held = nullptr;
  for (Py_ssize_t at = 0; PyDict_Next(dict.ptr(), &at, &key, &held) != 0;) {
    out_.push_back('t');
    count(2);
    value(key);
    value(held);
  }
}

void WordsOut::set(py::handle frozenset) {
  std::vector<std::string> each;
  for (const py::handle item : py::reinterpret_borrow<py::frozenset>(frozenset)) {
    WordsOut alone(told_);
    alone.value(item);
    each.push_back(std::move(alone.out_));
  }
  std::ranges::sort(each);
  out_.push_back('s');
  count(each.size());
  for (const std::string& bytes : each) {
    out_ += bytes;
  }
}

void WordsOut::count(std::size_t count) {
  if (count > std::numeric_limits<std::uint32_t>::max()) {
    throw py::value_error("a value of " + std::to_string(count) + " parts");
  }
  const auto word = static_cast<std::uint32_t>(count);
  out_.append(reinterpret_cast<const char*>(&word), sizeof(word));
}

void WordsOut::counted(char letter, std::string_view content) {
  out_.push_back(letter);
  count(content.size());
  out_ += content;
}

}  // namespace dynatrain

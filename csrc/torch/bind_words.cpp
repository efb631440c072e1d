#include "torch/bind.hpp"
#include "torch/words.hpp"
#include "torch/words_in.hpp"
#include "torch/words_out.hpp"
#include <string_view>

namespace dynatrain {

namespace py = pybind11;

void Words::add(const py::type& kind, const py::str& name, const py::tuple& fields) {
  told_[kind] = py::make_tuple(name, fields);
  kinds_[name] = py::make_tuple(kind, fields.size());
}

py::bytes Words::encode(py::handle value) const {
  WordsOut out(told_);
  out.value(value);
  return {out.bytes()};
}

py::object Words::decode(const py::bytes& blob) const {
  WordsIn in(std::string_view(blob), kinds_);
  py::object value = in.value(0);
  in.check_end();
  return value;
}

namespace binding {

void bind_words(py::module_& m) {
  py::class_<Words>(m, "Words")
      .def(py::init<>())
      .def("add", &Words::add, py::arg("kind"), py::arg("name"), py::arg("fields"))
      .def("encode", &Words::encode, py::arg("value"))
      .def("decode", &Words::decode, py::arg("blob"));
}

}  // namespace binding
}  // namespace dynatrain

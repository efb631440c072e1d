#include "dynatrain/base/error.hpp"
#include "dynatrain/base/hash.hpp"
#include "dynatrain/base/log.hpp"

#include "base/trim_heap.hpp"
#include "torch/bind.hpp"
#include <string>
#include <utility>

namespace dynatrain::binding {
namespace {

/// Returns the class `name` of dynatrain._errors, or RuntimeError where that cannot be imported
/// (the package needs torch, this module does not).
py::object error_class(const char* name) {
  try {
    return py::module_::import("dynatrain._errors").attr(name);
  } catch (py::error_already_set&) {
    return py::reinterpret_borrow<py::object>(PyExc_RuntimeError);
  }
}

void raise(const py::object& cls, const py::object& error) {
  PyErr_SetObject(cls.ptr(), error.ptr());
}

void raise_plain(const char* name, const std::exception& error) {
  const py::object cls = error_class(name);
  raise(cls, cls(error.what()));
}

void raise_budget(const BudgetError& error) {
  const py::object cls = error_class("BudgetError");
  py::object made = cls(error.what());
  made.attr("required_bytes") = error.required_bytes;
  made.attr("budget_bytes") = error.budget_bytes;
  raise(cls, made);
}

void raise_transport(const TransportError& error) {
  const py::object cls = error_class("TransportError");
  py::object made = cls(error.what());
  made.attr("peer") = error.peer;
  made.attr("stage") = error.stage;
  made.attr("retryable") = error.retryable;
  raise(cls, made);
}

void translate(std::exception_ptr pending) {
  try {
    if (pending) {
      std::rethrow_exception(std::move(pending));
    }
  } catch (const BudgetError& error) {
    raise_budget(error);
  } catch (const TransportError& error) {
    raise_transport(error);
  } catch (const LayoutError& error) {
    raise_plain("LayoutError", error);
  } catch (const DeviceError& error) {
    raise_plain("DeviceError", error);
  } catch (const InternalError& error) {
    raise_plain("InternalError", error);
  } catch (const Error& error) {
    raise_plain("Error", error);
  }
}

/// A Python callable that any thread may call and drop.
std::shared_ptr<py::object> shared_callable(py::object callable) {
  return {new py::object(std::move(callable)), [](py::object* held) {
            const py::gil_scoped_acquire gil;
            delete held;
          }};
}

void install_log_sink(const py::object& callable, int least_level) {
  LogSink sink;
  if (!callable.is_none()) {
    sink = [held = shared_callable(callable), least_level](
               LogLevel level, std::string_view room, std::string_view text) {
      if (static_cast<int>(level) < least_level) {
        return;  // before the GIL, for which a switch would have to wait
      }
      const py::gil_scoped_acquire gil;
      try {
        (*held)(static_cast<int>(level), room, text);
      } catch (py::error_already_set& error) {
        error.discard_as_unraisable("dynatrain log sink");
      }
    };
  }
  // Without the GIL: a thread that is logging holds the log's lock and waits for the GIL.
  const py::gil_scoped_release no_gil;
  set_log_sink(std::move(sink));
}

std::uint64_t hash64(const py::bytes& data) {
  Hasher hasher;
  hasher.add(std::string_view(data));
  return hasher.digest();
}

}  // namespace

void bind_base(py::module_& m) {
  py::register_exception_translator(&translate);
  m.def("set_log_sink", &install_log_sink, py::arg("sink").none(true), py::arg("least_level") = 0);
  m.def("hash64", &hash64, py::arg("data"));
  m.def("trim_heap", &trim_heap, NoGil());
}

}  // namespace dynatrain::binding

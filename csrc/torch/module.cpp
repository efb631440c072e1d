// dynatrain._native: one bind function per room. Importable without torch.
#include "torch/bind.hpp"

PYBIND11_MODULE(_native, m) {
  using namespace dynatrain::binding;
  m.doc() = "The C++ core of dynatrain; see _native.pyi for the contract of every name.";
  m.attr("__version__") = DYNATRAIN_VERSION;
  bind_base(m);
  bind_layout(m);
  bind_state_table(m);
  bind_shard_map(m);
  bind_packing(m);
  bind_plan(m);
  bind_schedule(m);
  bind_transport(m);
  bind_execution(m);
  bind_fingerprint(m);
  bind_membership(m);
  bind_words(m);
}

#include "dynatrain/fingerprint/fingerprint.hpp"

#include "torch/bind.hpp"
#include "torch/fragment_hash_codec.hpp"
#include "torch/state_table.hpp"
#include <string>
#include <vector>

namespace dynatrain::binding {
namespace {

HashMeans means_of(int num_threads,
                   Copier* copier,
                   const std::vector<Token>& after,
                   double timeout_s) {
  return {
      .num_threads = num_threads, .copier = copier, .after = after, .timeout = to_ms(timeout_s)};
}

std::vector<std::string> compare(const ShardMap& map, const std::vector<py::bytes>& blobs) {
  const std::vector<std::string> published(blobs.begin(), blobs.end());
  const py::gil_scoped_release no_gil;
  std::vector<std::vector<FragmentHash>> hashes_of_rank;
  hashes_of_rank.reserve(published.size());
  for (const std::string& blob : published) {
    hashes_of_rank.push_back(decode_hashes(blob, map.num_tensors()));
  }
  return compare_replicas(map, hashes_of_rank);
}

}  // namespace

void bind_fingerprint(py::module_& m) {
  py::class_<HashMeans>(m, "HashMeans")
      .def(py::init(&means_of),
           py::arg("num_threads") = 1,
           py::arg("copier") = nullptr,
           py::arg("after") = std::vector<Token>{},
           py::arg("timeout_s") = 60.0,
           py::keep_alive<1, 3>());
  m.def(
      "fingerprint_share",
      [](const ShardMap& map, int rank, const StateTable& table, const HashMeans& means) {
        return fingerprint_share(map, rank, table.memory_for(map), means);
      },
      py::arg("map"),
      py::arg("rank"),
      py::arg("table"),
      py::arg("means") = HashMeans{},
      NoGil());
  m.def(
      "content_shares",
      [](const ShardMap& map,
         int rank,
         const StateTable& table,
         const std::vector<std::string>& names,
         const HashMeans& means) {
        return content_shares(map, rank, table.memory_for(map), names, means);
      },
      py::arg("map"),
      py::arg("rank"),
      py::arg("table"),
      py::arg("names"),
      py::arg("means") = HashMeans{},
      NoGil());
  m.def(
      "fragment_hashes",
      [](const ShardMap& map,
         int rank,
         const StateTable& table,
         const HashMeans& means,
         const std::vector<std::string>& names) {
        std::string blob;
        {
          const py::gil_scoped_release no_gil;
          blob = encode_hashes(fragment_hashes(map, rank, table.memory_for(map), means, names));
        }
        return py::bytes(blob);
      },
      py::arg("map"),
      py::arg("rank"),
      py::arg("table"),
      py::arg("means") = HashMeans{},
      py::arg("names") = std::vector<std::string>{});
  m.def("compare_replicas", &compare, py::arg("map"), py::arg("hashes_of_rank"));
}

}  // namespace dynatrain::binding

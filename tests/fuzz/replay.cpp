// Runs a fuzz target without libFuzzer: its seeds, then inputs that are made of them, the same ones
// on every machine. replay <number of inputs>
#include "fuzz/target.hpp"
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <random>
#include <string>
#include <vector>

namespace dynatrain::fuzz {
namespace {

constexpr std::size_t kMostBytes = 4096;
constexpr std::string_view kOften("\x00\x01\x02\x7f\x80\xff:=, %\n-019", 17);

class Mutator {
 public:
  Mutator() : seeds_(seeds()) {
    seeds_.emplace_back();
    for (const std::size_t size : {8U, 64U, 512U}) {
      seeds_.emplace_back(size, '\0');
    }
  }

  [[nodiscard]] std::size_t num_seeds() const { return seeds_.size(); }
  [[nodiscard]] std::string input(std::size_t number) {
    if (number < seeds_.size()) {
      return seeds_[number];
    }
    std::string bytes = seeds_[below(seeds_.size())];
    const bool is_noise = below(16) == 0;
    for (std::size_t left = is_noise ? bytes.size() : 1 + below(6); left > 0; --left) {
      change(bytes);
    }
    bytes.resize(std::min(bytes.size(), kMostBytes));
    return bytes;
  }

 private:
  std::size_t below(std::size_t end) { return static_cast<std::size_t>(random_() % end); }
  char byte() {
    return below(2) == 0 ? kOften[below(kOften.size())] : static_cast<char>(below(256));
  }

  void change(std::string& bytes) {
    const std::size_t at = below(bytes.size() + 1);
    const std::size_t count = std::min(bytes.size() - at, std::size_t{1} << below(5));
    switch (below(5)) {
      case 0:
        bytes.insert(at, 1, byte());
        break;
      case 1:
        bytes.erase(at, count);
        break;
      case 2: {
        const std::string& other = seeds_[below(seeds_.size())];
        bytes.insert(at, other.substr(below(other.size() + 1), 1 + below(24)));
        break;
      }
      case 3:
        bytes.replace(at, count, count, byte());
        break;
      default:
        if (at < bytes.size()) {
          bytes[at] = static_cast<char>(bytes[at] ^ (1 << below(8)));
        }
    }
  }

  std::vector<std::string> seeds_;
  std::mt19937_64 random_;
};

int report(std::size_t number, const std::string& input, const std::string& what) {
  std::fprintf(stderr, "input %zu of %zu bytes: %s\n", number, input.size(), what.c_str());
  for (const char c : input) {
    std::fprintf(stderr, "%02x", static_cast<unsigned>(static_cast<unsigned char>(c)));
  }
  std::fprintf(stderr, "\n");
  return EXIT_FAILURE;
}

int run(std::size_t num_inputs) {
  Mutator mutator;
  const std::size_t num_all = mutator.num_seeds() + num_inputs;
  for (std::size_t number = 0; number < num_all; ++number) {
    const std::string input = mutator.input(number);
    try {
      LLVMFuzzerTestOneInput(reinterpret_cast<const std::uint8_t*>(input.data()), input.size());
    } catch (const Broken& broken) {
      return report(number, input, broken.claim);
    } catch (const std::exception& error) {
      return report(number, input, error.what());
    }
  }
  std::printf("%zu inputs\n", num_all);
  return EXIT_SUCCESS;
}

}  // namespace
}  // namespace dynatrain::fuzz

int main(int argc, char** argv) {
  return dynatrain::fuzz::run(argc > 1 ? std::stoul(argv[1]) : 1000);
}

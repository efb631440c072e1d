// Beside libFuzzer's main: writes the seeds of the target into the folder of its corpus, where it
// reads them at once.
#include "fuzz/target.hpp"
#include <filesystem>
#include <fstream>
#include <ios>
#include <string>

extern "C" int LLVMFuzzerInitialize(int* argc, char*** argv);

extern "C" int LLVMFuzzerInitialize(int* argc, char*** argv) {
  for (int i = 1; i < *argc; ++i) {
    const std::filesystem::path folder((*argv)[i]);
    if (!std::filesystem::is_directory(folder)) {
      continue;
    }
    int number = 0;
    for (const std::string& seed : dynatrain::fuzz::seeds()) {
      std::ofstream(folder / ("seed-" + std::to_string(number)), std::ios::binary) << seed;
      ++number;
    }
    break;
  }
  return 0;
}

#include "kernels/cuda/device_error.hpp"

#include "dynatrain/base/error.hpp"

namespace dynatrain {

void throw_device_error(const std::string& what,
                        const std::string& why,
                        std::source_location where) {
  throw DeviceError("kernels: " + what + " failed: " + why +
                        "\n  what the device was writing is undefined, the rest is unchanged"
                        "\n  run `dynatrain doctor`; after a launch failure, restart the process",
                    where);
}

void throw_late(const std::string& what) {
  throw TransportError(
      "kernels: " + what +
          " did not end before its deadline\n"
          "  it is still pending, and the memory it was given is still in use\n"
          "  find out what it waits for, or raise the timeout when the device is only slow",
      -1,
      -1,
      false);
}

}  // namespace dynatrain

#include "dynatrain/kernels/cuda_copier.hpp"

#include "dynatrain/base/device_completion.hpp"
#include "dynatrain/base/error.hpp"

#include "kernels/cuda/cuda_device.hpp"
#include "kernels/cuda/stream_copier.hpp"
#include <string>
#include <utility>

namespace dynatrain {
namespace {

constexpr const char* kNotBuilt =
    "this build of dynatrain has no CUDA code: no nvcc that works was found, or DYNATRAIN_CUDA=OFF "
    "was given";

}  // namespace

void cuda_stream_wait(void* stream, const Token& token, Deadline deadline) {
  DeviceCompletion* const event = token.done() ? nullptr : on_stream(token);
  if (event != nullptr) {
    event->order_before(stream);
    return;
  }
  token.wait(deadline);
}

#if DYNATRAIN_WITH_CUDA

bool cuda_is_built() {
  return true;
}

std::string cuda_problem() {
  return cuda_device_problem();
}

std::unique_ptr<Copier> make_cuda_copier(const CudaCopierOptions& options) {
  auto copier = std::make_unique<StreamCopier>(make_cuda_device(options.device));
  copier->reserve(options.num_copies, options.num_batches);
  return copier;
}

#else

namespace {

[[noreturn]] void throw_not_built(const std::string& what) {
  throw DeviceError("kernels: " + what + " needs CUDA\n  " + kNotBuilt +
                    "\n  nothing was changed\n  build with nvcc in PATH and DYNATRAIN_CUDA=ON");
}

}  // namespace

bool cuda_is_built() {
  return false;
}

std::string cuda_problem() {
  return kNotBuilt;
}

std::unique_ptr<Copier> make_cuda_copier(const CudaCopierOptions& /*options*/) {
  throw_not_built("a CUDA copier");
}

Token cuda_stream_token(int /*device*/, void* /*stream*/) {
  throw_not_built("a token of a stream");
}

void FreeCudaMemory::operator()(std::byte* /*memory*/) const noexcept {}

CudaMemory allocate_cuda_memory(CudaMemoryKind /*kind*/, std::int64_t /*size_bytes*/) {
  throw_not_built("device memory");
}

void copy_cuda_memory(std::byte* /*dst*/, const std::byte* /*src*/, std::int64_t /*size_bytes*/) {
  throw_not_built("a copy of device memory");
}

#endif

}  // namespace dynatrain

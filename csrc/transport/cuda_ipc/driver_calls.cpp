#include "transport/cuda_ipc/driver_calls.hpp"

#include "transport/nccl/library.hpp"

namespace dynatrain {

std::pair<DriverCalls, std::string> find_driver_calls() {
  Library driver({"libcuda.so.1"});
  if (!driver.problem().empty()) {
    return {DriverCalls(), driver.problem()};
  }
  // The versions that cuda.h of CUDA 11 to 13 declares under the shorter names.
  DriverCalls f;
  driver.require(f.init, "cuInit");
  driver.require(f.get_error_string, "cuGetErrorString");
  driver.require(f.device_get, "cuDeviceGet");
  driver.require(f.primary_retain, "cuDevicePrimaryCtxRetain");
  driver.require(f.push, "cuCtxPushCurrent_v2");
  driver.require(f.pop, "cuCtxPopCurrent_v2");
  driver.require(f.pointer_get_attribute, "cuPointerGetAttribute");
  driver.require(f.get_address_range, "cuMemGetAddressRange_v2");
  driver.require(f.ipc_get, "cuIpcGetMemHandle");
  driver.require(f.ipc_open, "cuIpcOpenMemHandle_v2");
  driver.require(f.ipc_close, "cuIpcCloseMemHandle");
  driver.require(f.retain, "cuMemRetainAllocationHandle");
  driver.require(f.mem_export, "cuMemExportToShareableHandle");
  driver.require(f.mem_import, "cuMemImportFromShareableHandle");
  driver.require(f.reserve, "cuMemAddressReserve");
  driver.require(f.address_free, "cuMemAddressFree");
  driver.require(f.mem_map, "cuMemMap");
  driver.require(f.mem_unmap, "cuMemUnmap");
  driver.require(f.set_access, "cuMemSetAccess");
  driver.require(f.mem_create, "cuMemCreate");
  driver.require(f.mem_release, "cuMemRelease");
  driver.require(f.granularity, "cuMemGetAllocationGranularity");
  driver.require(f.mem_alloc, "cuMemAlloc_v2");
  driver.require(f.mem_free, "cuMemFree_v2");
  driver.require(f.host_alloc, "cuMemAllocHost_v2");
  driver.require(f.host_free, "cuMemFreeHost");
  driver.require(f.stream_create, "cuStreamCreate");
  driver.require(f.stream_destroy, "cuStreamDestroy_v2");
  driver.require(f.stream_query, "cuStreamQuery");
  driver.require(f.copy_in, "cuMemcpyHtoDAsync_v2");
  driver.require(f.copy_out, "cuMemcpyDtoHAsync_v2");
  return {f, driver.problem()};
}

}  // namespace dynatrain

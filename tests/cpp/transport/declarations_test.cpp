// The transports declare themselves what they use of CUDA and NCCL. Where a header of theirs can be
// compiled, each declaration is compared with it, by the compiler; elsewhere that test is skipped.

#include "dynatrain/base/error.hpp"

#include <gtest/gtest.h>

#ifdef DYNATRAIN_COMPARES_DRIVER
#include <cuda.h>
#endif
#ifdef DYNATRAIN_COMPARES_RUNTIME
#include <cuda_runtime_api.h>
#endif
#ifdef DYNATRAIN_COMPARES_NCCL
#include <nccl.h>
#endif

#include "transport/cuda_ipc/driver_calls.hpp"
#include "transport/nccl/cuda_calls.hpp"
#include "transport/nccl/nccl_calls.hpp"
#include <cstddef>
#include <type_traits>

namespace dynatrain {
namespace {

/// True for types that a call passes in the same way: enumerations are numbers.
template <class Ours, class Theirs>
constexpr bool kIsPassedAlike =
    sizeof(Ours) == sizeof(Theirs) && alignof(Ours) == alignof(Theirs) &&
    std::is_pointer_v<Ours> == std::is_pointer_v<Theirs> &&
    (std::is_integral_v<Ours> || std::is_enum_v<Ours>) ==
        (std::is_integral_v<Theirs> || std::is_enum_v<Theirs>);

template <class Ours, class Theirs>
struct SameCall : std::false_type {};

template <class Ours, class... OurArgs, class Theirs, class... TheirArgs>
  requires(sizeof...(OurArgs) == sizeof...(TheirArgs))
struct SameCall<Ours (*)(OurArgs...), Theirs (*)(TheirArgs...)>
    : std::bool_constant<kIsPassedAlike<Ours, Theirs> &&
                         (kIsPassedAlike<OurArgs, TheirArgs> && ...)> {};

#define EXPECT_SAME_CALL(ours, theirs) \
  static_assert(SameCall<decltype(ours), decltype(&(theirs))>::value, #theirs)
#define EXPECT_SAME_PLACE(ours, our_member, theirs, their_member) \
  static_assert(offsetof(ours, our_member) == offsetof(theirs, their_member), #their_member)
#define EXPECT_SAME_VALUE(ours, theirs) \
  static_assert(static_cast<long long>(ours) == static_cast<long long>(theirs), #theirs)

// A comparison that finds everything alike compares nothing.
static_assert(SameCall<int (*)(void*), unsigned (*)(const char*)>::value);
static_assert(!SameCall<int (*)(void*), int (*)(void*, int)>::value);
static_assert(!SameCall<int (*)(int), int (*)(long)>::value);
static_assert(!SameCall<int (*)(long), int (*)(void*)>::value);

// A wrong constant or member would reach the driver as another request, on machines with GPUs only.
TEST(TransportDeclarations, OfCudasDriverAreThoseOfItsHeader) {
#ifndef DYNATRAIN_COMPARES_DRIVER
  GTEST_SKIP() << "no cuda.h that compiles was found";
#else
  using D = DriverCalls;
  EXPECT_SAME_CALL(D::init, cuInit);
  EXPECT_SAME_CALL(D::get_error_string, cuGetErrorString);
  EXPECT_SAME_CALL(D::device_get, cuDeviceGet);
  EXPECT_SAME_CALL(D::primary_retain, cuDevicePrimaryCtxRetain);
  EXPECT_SAME_CALL(D::push, cuCtxPushCurrent);
  EXPECT_SAME_CALL(D::pop, cuCtxPopCurrent);
  EXPECT_SAME_CALL(D::pointer_get_attribute, cuPointerGetAttribute);
  EXPECT_SAME_CALL(D::get_address_range, cuMemGetAddressRange);
  EXPECT_SAME_CALL(D::ipc_get, cuIpcGetMemHandle);
  EXPECT_SAME_CALL(D::ipc_open, cuIpcOpenMemHandle);
  EXPECT_SAME_CALL(D::ipc_close, cuIpcCloseMemHandle);
  EXPECT_SAME_CALL(D::retain, cuMemRetainAllocationHandle);
  EXPECT_SAME_CALL(D::mem_export, cuMemExportToShareableHandle);
  EXPECT_SAME_CALL(D::mem_import, cuMemImportFromShareableHandle);
  EXPECT_SAME_CALL(D::reserve, cuMemAddressReserve);
  EXPECT_SAME_CALL(D::address_free, cuMemAddressFree);
  EXPECT_SAME_CALL(D::mem_map, cuMemMap);
  EXPECT_SAME_CALL(D::mem_unmap, cuMemUnmap);
  EXPECT_SAME_CALL(D::set_access, cuMemSetAccess);
  EXPECT_SAME_CALL(D::mem_create, cuMemCreate);
  EXPECT_SAME_CALL(D::mem_release, cuMemRelease);
  EXPECT_SAME_CALL(D::granularity, cuMemGetAllocationGranularity);
  EXPECT_SAME_CALL(D::mem_alloc, cuMemAlloc);
  EXPECT_SAME_CALL(D::mem_free, cuMemFree);
  EXPECT_SAME_CALL(D::host_alloc, cuMemAllocHost);
  EXPECT_SAME_CALL(D::host_free, cuMemFreeHost);
  EXPECT_SAME_CALL(D::stream_create, cuStreamCreate);
  EXPECT_SAME_CALL(D::stream_destroy, cuStreamDestroy);
  EXPECT_SAME_CALL(D::stream_query, cuStreamQuery);
  EXPECT_SAME_CALL(D::copy_in, cuMemcpyHtoDAsync);
  EXPECT_SAME_CALL(D::copy_out, cuMemcpyDtoHAsync);
  EXPECT_SAME_VALUE(kDriverSuccess, CUDA_SUCCESS);
  EXPECT_SAME_VALUE(kDriverNotReady, CUDA_ERROR_NOT_READY);
  EXPECT_SAME_VALUE(kNonBlockingStream, CU_STREAM_NON_BLOCKING);
  EXPECT_SAME_VALUE(kMemoryTypeDevice, CU_MEMORYTYPE_DEVICE);
  EXPECT_SAME_VALUE(kIpcLazyPeerAccess, CU_IPC_MEM_LAZY_ENABLE_PEER_ACCESS);
  EXPECT_SAME_VALUE(kAllocationPinned, CU_MEM_ALLOCATION_TYPE_PINNED);
  EXPECT_SAME_VALUE(kLocationDevice, CU_MEM_LOCATION_TYPE_DEVICE);
  EXPECT_SAME_VALUE(kPosixFileHandle, CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR);
  EXPECT_SAME_VALUE(kReadWrite, CU_MEM_ACCESS_FLAGS_PROT_READWRITE);
  EXPECT_SAME_VALUE(kLeastGranularity, CU_MEM_ALLOC_GRANULARITY_MINIMUM);
  EXPECT_SAME_VALUE(kMemoryType, CU_POINTER_ATTRIBUTE_MEMORY_TYPE);
  EXPECT_SAME_VALUE(kIsManaged, CU_POINTER_ATTRIBUTE_IS_MANAGED);
  EXPECT_SAME_VALUE(kHasIpcHandle, CU_POINTER_ATTRIBUTE_IS_LEGACY_CUDA_IPC_CAPABLE);
  EXPECT_SAME_VALUE(kHandleTypes, CU_POINTER_ATTRIBUTE_ALLOWED_HANDLE_TYPES);
#if CUDA_VERSION >= 12000
#endif
  static_assert(sizeof(IpcMemoryHandle) == sizeof(CUipcMemHandle));
  static_assert(sizeof(AllocationProperties) == sizeof(CUmemAllocationProp));
  EXPECT_SAME_PLACE(AllocationProperties, type, CUmemAllocationProp, type);
  EXPECT_SAME_PLACE(AllocationProperties, handle_types, CUmemAllocationProp, requestedHandleTypes);
  EXPECT_SAME_PLACE(AllocationProperties, location, CUmemAllocationProp, location);
  EXPECT_SAME_PLACE(
      AllocationProperties, windows_attributes, CUmemAllocationProp, win32HandleMetaData);
  static_assert(sizeof(MemoryAccess) == sizeof(CUmemAccessDesc));
  EXPECT_SAME_PLACE(MemoryAccess, location, CUmemAccessDesc, location);
  EXPECT_SAME_PLACE(MemoryAccess, flags, CUmemAccessDesc, flags);
  EXPECT_SAME_PLACE(MemoryLocation, type, CUmemLocation, type);
  EXPECT_SAME_PLACE(MemoryLocation, id, CUmemLocation, id);
#endif
}

TEST(TransportDeclarations, OfCudasRuntimeAreThoseOfItsHeader) {
#ifndef DYNATRAIN_COMPARES_RUNTIME
  GTEST_SKIP() << "no cuda_runtime_api.h that compiles was found";
#else
  using C = CudaCalls;
  using CreateEvent = cudaError_t (*)(cudaEvent_t*, unsigned int);  // overloaded for C++
  static_assert(SameCall<decltype(C::event_create), CreateEvent>::value);
  EXPECT_SAME_CALL(C::get_error_string, cudaGetErrorString);
  EXPECT_SAME_CALL(C::get_device, cudaGetDevice);
  EXPECT_SAME_CALL(C::set_device, cudaSetDevice);
  EXPECT_SAME_CALL(C::priority_range, cudaDeviceGetStreamPriorityRange);
  EXPECT_SAME_CALL(C::stream_create, cudaStreamCreateWithPriority);
  EXPECT_SAME_CALL(C::stream_destroy, cudaStreamDestroy);
  EXPECT_SAME_CALL(C::stream_wait_event, cudaStreamWaitEvent);
  EXPECT_SAME_CALL(C::event_create, cudaEventCreateWithFlags);
  EXPECT_SAME_CALL(C::event_destroy, cudaEventDestroy);
  EXPECT_SAME_CALL(C::event_record, cudaEventRecord);
  EXPECT_SAME_CALL(C::event_query, cudaEventQuery);
  EXPECT_SAME_CALL(C::pointer_get_attributes, cudaPointerGetAttributes);
  EXPECT_SAME_CALL(C::memset_async, cudaMemsetAsync);
  EXPECT_SAME_VALUE(kCudaSuccess, cudaSuccess);
  EXPECT_SAME_VALUE(kCudaNotReady, cudaErrorNotReady);
  EXPECT_SAME_VALUE(kCudaStreamNonBlocking, cudaStreamNonBlocking);
  EXPECT_SAME_VALUE(kCudaEventWithoutTiming, cudaEventDisableTiming);
  EXPECT_SAME_VALUE(kCudaMemoryUnregistered, cudaMemoryTypeUnregistered);
  static_assert(sizeof(CudaPointerAttributes) >= sizeof(cudaPointerAttributes));
  EXPECT_SAME_PLACE(CudaPointerAttributes, type, cudaPointerAttributes, type);
  EXPECT_SAME_PLACE(CudaPointerAttributes, device, cudaPointerAttributes, device);
  EXPECT_SAME_PLACE(CudaPointerAttributes, device_pointer, cudaPointerAttributes, devicePointer);
  EXPECT_SAME_PLACE(CudaPointerAttributes, host_pointer, cudaPointerAttributes, hostPointer);
#endif
}

TEST(TransportDeclarations, OfNcclAreThoseOfItsHeader) {
#ifndef DYNATRAIN_COMPARES_NCCL
  GTEST_SKIP() << "no nccl.h that compiles was found";
#else
  using N = NcclCalls;
  EXPECT_SAME_CALL(N::get_version, ncclGetVersion);
  EXPECT_SAME_CALL(N::get_unique_id, ncclGetUniqueId);
  EXPECT_SAME_CALL(N::comm_init_rank_config, ncclCommInitRankConfig);
  EXPECT_SAME_CALL(N::comm_get_async_error, ncclCommGetAsyncError);
  EXPECT_SAME_CALL(N::get_error_string, ncclGetErrorString);
  EXPECT_SAME_CALL(N::get_last_error, ncclGetLastError);
  EXPECT_SAME_CALL(N::group_start, ncclGroupStart);
  EXPECT_SAME_CALL(N::group_end, ncclGroupEnd);
  EXPECT_SAME_CALL(N::send, ncclSend);
  EXPECT_SAME_CALL(N::recv, ncclRecv);
  EXPECT_SAME_CALL(N::comm_finalize, ncclCommFinalize);
  EXPECT_SAME_CALL(N::comm_destroy, ncclCommDestroy);
  EXPECT_SAME_CALL(N::comm_abort, ncclCommAbort);
  EXPECT_SAME_CALL(N::mem_alloc, ncclMemAlloc);
  EXPECT_SAME_CALL(N::mem_free, ncclMemFree);
  EXPECT_SAME_CALL(N::comm_register, ncclCommRegister);
  EXPECT_SAME_CALL(N::comm_deregister, ncclCommDeregister);
  EXPECT_SAME_VALUE(kNcclSuccess, ncclSuccess);
  EXPECT_SAME_VALUE(kNcclInt8, ncclInt8);
  EXPECT_SAME_VALUE(kOldestNcclVersion, NCCL_VERSION(2, 27, 0));
  EXPECT_SAME_VALUE(NcclResult::kSuccess, ncclSuccess);
  EXPECT_SAME_VALUE(NcclResult::kInternalError, ncclInternalError);
  EXPECT_SAME_VALUE(NcclResult::kRemoteError, ncclRemoteError);
  EXPECT_SAME_VALUE(NcclResult::kInProgress, ncclInProgress);
  static_assert(sizeof(NcclUniqueId) == sizeof(ncclUniqueId));
  static_assert(sizeof(NcclConfig) <= sizeof(ncclConfig_t));
  EXPECT_SAME_PLACE(NcclConfig, size, ncclConfig_t, size);
  EXPECT_SAME_PLACE(NcclConfig, magic, ncclConfig_t, magic);
  EXPECT_SAME_PLACE(NcclConfig, version, ncclConfig_t, version);
  EXPECT_SAME_PLACE(NcclConfig, blocking, ncclConfig_t, blocking);
  EXPECT_SAME_PLACE(NcclConfig, cga_cluster_size, ncclConfig_t, cgaClusterSize);
  EXPECT_SAME_PLACE(NcclConfig, min_ctas, ncclConfig_t, minCTAs);
  EXPECT_SAME_PLACE(NcclConfig, max_ctas, ncclConfig_t, maxCTAs);
  EXPECT_SAME_PLACE(NcclConfig, net_name, ncclConfig_t, netName);
  EXPECT_SAME_PLACE(NcclConfig, split_share, ncclConfig_t, splitShare);
  EXPECT_SAME_PLACE(NcclConfig, traffic_class, ncclConfig_t, trafficClass);
  EXPECT_SAME_PLACE(NcclConfig, comm_name, ncclConfig_t, commName);
  EXPECT_SAME_PLACE(NcclConfig, collnet_enable, ncclConfig_t, collnetEnable);
  EXPECT_SAME_PLACE(NcclConfig, cta_policy, ncclConfig_t, CTAPolicy);
  EXPECT_SAME_PLACE(NcclConfig, shrink_share, ncclConfig_t, shrinkShare);
  EXPECT_SAME_PLACE(NcclConfig, nvls_ctas, ncclConfig_t, nvlsCTAs);

  // What NCCL's own initializer says of the members that both have.
  const ncclConfig_t theirs = NCCL_CONFIG_INITIALIZER;
  const NcclConfig ours;
  EXPECT_EQ(ours.magic, theirs.magic);
  EXPECT_EQ(ours.blocking, theirs.blocking);
  EXPECT_EQ(ours.nvls_ctas, theirs.nvlsCTAs);
  EXPECT_EQ(ours.net_name, theirs.netName);
  EXPECT_EQ(ours.size, sizeof(NcclConfig));
#endif
}

}  // namespace
}  // namespace dynatrain

# dynatrain_cuda_ipc(<target>): reading other processes' device memory, where cuda.h is found. The
# driver is not linked: it is opened when a transport is made.
function(dynatrain_cuda_ipc target)
  find_path(DYNATRAIN_CUDA_DRIVER_INCLUDE cuda.h PATHS /usr/local/cuda/include)
  if(NOT DYNATRAIN_CUDA_DRIVER_INCLUDE)
    message(STATUS "CUDA IPC: not built, cuda.h was not found")
    return()
  endif()
  message(STATUS "CUDA IPC: built against ${DYNATRAIN_CUDA_DRIVER_INCLUDE}/cuda.h")
  target_include_directories(${target} SYSTEM PRIVATE ${DYNATRAIN_CUDA_DRIVER_INCLUDE})
  set(folder "${PROJECT_SOURCE_DIR}/csrc/transport/cuda_ipc")
  set_property(SOURCE "${folder}/make.cpp" "${folder}/loaded_ipc.cpp" "${folder}/driver_calls.cpp"
               APPEND PROPERTY COMPILE_DEFINITIONS DYNATRAIN_HAS_CUDA_IPC)
endfunction()

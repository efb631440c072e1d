# dynatrain_nvtx(<target>): ranges for Nsight where NVTX's headers are found; they need no library and
# cost nothing unless a profiler listens.
function(dynatrain_nvtx target)
  dynatrain_nvidia_wheels(wheels)
  find_path(DYNATRAIN_NVTX_INCLUDE nvtx3/nvToolsExt.h PATHS /usr/local/cuda/include ${wheels})
  if(DYNATRAIN_NVTX_INCLUDE)
    target_include_directories(${target} SYSTEM PRIVATE ${DYNATRAIN_NVTX_INCLUDE})
    set_property(SOURCE "${PROJECT_SOURCE_DIR}/csrc/execution/phase_range.cpp"
                 APPEND PROPERTY COMPILE_DEFINITIONS DYNATRAIN_HAS_NVTX=1)
  endif()
endfunction()

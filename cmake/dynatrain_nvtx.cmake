# dynatrain_nvtx(<target>): ranges for Nsight where NVTX's headers compile; they need no library and
# cost nothing unless a profiler listens.
function(dynatrain_nvtx target)
  dynatrain_nvidia_wheels(wheels)
  dynatrain_try_include(folder
    "#include <nvtx3/nvToolsExt.h>\nint push() { return nvtxRangePushA(\"name\"); }\n"
    FOLDERS /usr/local/cuda/include ${wheels})
  if(folder STREQUAL "NOTFOUND")
    message(STATUS "NVTX: not built, its headers were not found or do not compile")
    return()
  endif()
  target_include_directories(${target} SYSTEM PRIVATE ${folder})
  set_property(SOURCE "${PROJECT_SOURCE_DIR}/csrc/execution/phase_range.cpp"
               APPEND PROPERTY COMPILE_DEFINITIONS DYNATRAIN_HAS_NVTX=1)
endfunction()

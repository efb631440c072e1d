# dynatrain_nccl(<target>): the NCCL transport, where the headers of CUDA and NCCL are found. Neither
# library is linked: both are opened when a transport is made, torch's own where torch is loaded.
set(DYNATRAIN_NCCL "AUTO" CACHE STRING "Build the NCCL transport: AUTO, ON (needed) or OFF")
set_property(CACHE DYNATRAIN_NCCL PROPERTY STRINGS AUTO ON OFF)

# Include folders of the NVIDIA wheels that the building Python has.
function(dynatrain_nvidia_wheels result)
  find_package(Python QUIET COMPONENTS Interpreter)
  set(folders "")
  if(Python_EXECUTABLE)
    execute_process(
      COMMAND "${Python_EXECUTABLE}" -c
              "import glob, sysconfig; print(';'.join(glob.glob(sysconfig.get_path('purelib') + '/nvidia/*/include')))"
      OUTPUT_VARIABLE folders OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET)
  endif()
  set(${result} "${folders}" PARENT_SCOPE)
endfunction()

# Only these files see a header of NCCL or CUDA; the rest is the same in every build.
function(dynatrain_nccl_define definition)
  set(folder "${PROJECT_SOURCE_DIR}/csrc/transport/nccl")
  set_property(SOURCE "${folder}/make.cpp" "${folder}/loaded_nccl.cpp" "${folder}/loaded_cuda.cpp"
               APPEND PROPERTY COMPILE_DEFINITIONS "${definition}")
endfunction()

function(dynatrain_nccl target)
  set(reason "")
  if(DYNATRAIN_NCCL STREQUAL "OFF")
    set(reason "it was built with DYNATRAIN_NCCL=OFF")
  else()
    dynatrain_nvidia_wheels(wheels)
    # The wheel's NCCL is the one that torch loads; the toolkit's CUDA is the one that fits nvcc.
    find_path(DYNATRAIN_NCCL_INCLUDE nccl.h HINTS ${wheels} PATHS /usr/local/cuda/include)
    find_path(DYNATRAIN_CUDA_INCLUDE cuda_runtime_api.h PATHS /usr/local/cuda/include ${wheels})
    if(NOT DYNATRAIN_CUDA_INCLUDE)
      set(reason "cuda_runtime_api.h was not found when it was built")
    elseif(NOT DYNATRAIN_NCCL_INCLUDE)
      set(reason "nccl.h was not found when it was built")
    endif()
  endif()
  target_link_libraries(${target} PRIVATE ${CMAKE_DL_LIBS})
  if(reason STREQUAL "")
    message(STATUS "NCCL transport: built against ${DYNATRAIN_NCCL_INCLUDE}/nccl.h")
    target_include_directories(${target} SYSTEM PRIVATE
      ${DYNATRAIN_NCCL_INCLUDE} ${DYNATRAIN_CUDA_INCLUDE})
    dynatrain_nccl_define(DYNATRAIN_HAS_NCCL)
  elseif(DYNATRAIN_NCCL STREQUAL "ON")
    message(FATAL_ERROR "DYNATRAIN_NCCL=ON, but ${reason}; nothing was built\n"
                        "  install the CUDA toolkit and NCCL (or torch's CUDA wheel), or leave the "
                        "option at AUTO")
  else()
    message(STATUS "NCCL transport: not built, ${reason}")
    dynatrain_nccl_define("DYNATRAIN_NO_NCCL_REASON=\"${reason}\"")
  endif()
endfunction()

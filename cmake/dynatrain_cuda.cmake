# CUDA code is built where nvcc is found; no GPU is needed for that. Everything else about it is plain
# C++ and is built and tested without nvcc too.
set(DYNATRAIN_CUDA AUTO CACHE STRING "Build the CUDA code: AUTO (when nvcc is found), ON or OFF")
set_property(CACHE DYNATRAIN_CUDA PROPERTY STRINGS AUTO ON OFF)
if(NOT DYNATRAIN_CUDA MATCHES "^(AUTO|ON|OFF)$")
  message(FATAL_ERROR "DYNATRAIN_CUDA is '${DYNATRAIN_CUDA}'; nothing was built\n"
                      "  choose AUTO, ON or OFF")
endif()

set(DYNATRAIN_WITH_CUDA OFF)
if(NOT DYNATRAIN_CUDA STREQUAL "OFF")
  check_language(CUDA)
  if(CMAKE_CUDA_COMPILER)
    set(DYNATRAIN_WITH_CUDA ON)
  elseif(DYNATRAIN_CUDA STREQUAL "ON")
    message(FATAL_ERROR "DYNATRAIN_CUDA=ON, but no nvcc that works was found; nothing was built\n"
                        "  name it: CUDACXX=/path/to/nvcc, or build for the CPU: -DDYNATRAIN_CUDA=OFF")
  endif()
endif()

if(NOT DYNATRAIN_WITH_CUDA)
  message(STATUS "CUDA: not built (DYNATRAIN_CUDA=${DYNATRAIN_CUDA}); copies run on the CPU alone")
  return()
endif()

# Ampere, Hopper, Blackwell; CMake's own default would be the oldest that nvcc knows.
if(NOT CMAKE_CUDA_ARCHITECTURES)
  set(CMAKE_CUDA_ARCHITECTURES 80 90 100 CACHE STRING "GPU architectures" FORCE)
endif()
if(DYNATRAIN_CCACHE AND NOT CMAKE_CUDA_COMPILER_LAUNCHER)
  set(CMAKE_CUDA_COMPILER_LAUNCHER "${DYNATRAIN_CCACHE}")
endif()
enable_language(CUDA)
set(CMAKE_CUDA_STANDARD 20)
set(CMAKE_CUDA_STANDARD_REQUIRED ON)
set(CMAKE_CUDA_EXTENSIONS OFF)
# The runtime is linked in and looks for the driver when it is first used, so the library loads on a
# machine without CUDA.
set(CMAKE_CUDA_RUNTIME_LIBRARY Static)
find_package(CUDAToolkit REQUIRED)
message(STATUS "CUDA: built with nvcc ${CMAKE_CUDA_COMPILER_VERSION} "
               "for ${CMAKE_CUDA_ARCHITECTURES}")

# dynatrain_add_cuda(<target>): the .cu files of the rooms, compiled into the target.
function(dynatrain_add_cuda target)
  file(GLOB_RECURSE cuda_sources CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/csrc/kernels/cuda/*.cu)
  target_sources(${target} PRIVATE ${cuda_sources})
  target_compile_definitions(${target} PRIVATE DYNATRAIN_WITH_CUDA=1)
  target_compile_options(${target} PRIVATE
    # constexpr functions, such as part_sum_term, serve device code too.
    $<$<COMPILE_LANGUAGE:CUDA>:--expt-relaxed-constexpr>)
  target_link_libraries(${target} PRIVATE CUDA::cudart_static ${CMAKE_DL_LIBS})
endfunction()

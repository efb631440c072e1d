# CUDA code is built where nvcc works; no GPU is needed for that. Everything else about it is plain
# C++ and is built and tested without nvcc too.
set(DYNATRAIN_CUDA AUTO CACHE STRING "Build the CUDA code: AUTO (where nvcc works), ON or OFF")
set_property(CACHE DYNATRAIN_CUDA PROPERTY STRINGS AUTO ON OFF)
if(NOT DYNATRAIN_CUDA MATCHES "^(AUTO|ON|OFF)$")
  message(FATAL_ERROR "DYNATRAIN_CUDA is '${DYNATRAIN_CUDA}'; nothing was built\n"
                      "  choose AUTO, ON or OFF")
endif()

# Ampere, Hopper, Blackwell, less what nvcc is too old for; CMake's own default would be the oldest
# that it knows. A build folder keeps a good answer and asks again after a bad one.
function(dynatrain_try_cuda)
  if(DEFINED DYNATRAIN_CUDA_TRIED AND DYNATRAIN_CUDA_TRIED STREQUAL CMAKE_CUDA_ARCHITECTURES)
    set(DYNATRAIN_WITH_CUDA ON PARENT_SCOPE)
    return()
  endif()
  set(options "")
  if(CMAKE_CUDA_COMPILER)
    list(APPEND options "CMAKE_CUDA_COMPILER=${CMAKE_CUDA_COMPILER}")
  endif()
  set(choices "80,90,100" "80,90" "80")
  if(CMAKE_CUDA_ARCHITECTURES)
    string(REPLACE ";" "," choices "${CMAKE_CUDA_ARCHITECTURES}")
  endif()
  set(first_reason "")
  foreach(choice IN LISTS choices)
    dynatrain_try_project(works cuda ${options} "TRY_ARCHITECTURES=${choice}")
    if(works)
      string(REPLACE "," ";" choice "${choice}")
      set(CMAKE_CUDA_ARCHITECTURES "${choice}" CACHE STRING "GPU architectures" FORCE)
      set(DYNATRAIN_CUDA_TRIED "${choice}" CACHE INTERNAL "architectures that nvcc compiles for")
      set(DYNATRAIN_WITH_CUDA ON PARENT_SCOPE)
      return()
    endif()
    if(NOT first_reason)
      set(first_reason "${works_REASON}")
    endif()
    if(works_REASON MATCHES "(No CMAKE_CUDA_COMPILER|Failed to find nvcc)")
      break()
    endif()
  endforeach()
  set(DYNATRAIN_CUDA_REASON "${first_reason}" PARENT_SCOPE)
endfunction()

set(DYNATRAIN_WITH_CUDA OFF)
if(NOT DYNATRAIN_CUDA STREQUAL "OFF")
  dynatrain_try_cuda()
endif()
if(DYNATRAIN_CUDA STREQUAL "ON" AND NOT DYNATRAIN_WITH_CUDA)
  message(FATAL_ERROR "DYNATRAIN_CUDA=ON, but no nvcc that works was found; nothing was built\n"
                      "  ${DYNATRAIN_CUDA_REASON}\n"
                      "  name it: CUDACXX=/path/to/nvcc, or build for the CPU: -DDYNATRAIN_CUDA=OFF")
endif()
if(NOT DYNATRAIN_WITH_CUDA)
  if(DYNATRAIN_CUDA STREQUAL "OFF" OR DYNATRAIN_CUDA_REASON MATCHES "(No CMAKE_CUDA_COMPILER|Failed to find nvcc)")
    message(STATUS "CUDA: not built, no nvcc or DYNATRAIN_CUDA=OFF; copies run on the CPU alone")
  else()
    message(WARNING "CUDA: not built, nvcc was found and does not work; copies run on the CPU alone\n"
                    "  ${DYNATRAIN_CUDA_REASON}\n"
                    "  name another: CUDACXX=/path/to/nvcc, or say so: -DDYNATRAIN_CUDA=OFF")
  endif()
  return()
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

# What a machine has is tried: a file that is there may lack others that it needs, a program may lack
# its own parts. Nothing here stops the configuration; whoever asks decides.

# dynatrain_try_include(<variable> <source> [BESIDE <folder>...] [FOLDERS <folder>...]): the include
# folders with which <source> compiles, one of FOLDERS (the first that works) and all of BESIDE;
# "NOTFOUND" when none does. The compiler's own folders are tried first, and come back as "".
function(dynatrain_try_include variable source)
  cmake_parse_arguments(PARSE_ARGV 2 arg "" "" "BESIDE;FOLDERS")
  set(CMAKE_TRY_COMPILE_TARGET_TYPE STATIC_LIBRARY)
  foreach(folder IN ITEMS "" LISTS arg_FOLDERS)
    set(folders ${folder} ${arg_BESIDE})
    try_compile(works
      SOURCE_FROM_VAR try_include.cpp source
      NO_CACHE
      CMAKE_FLAGS "-DINCLUDE_DIRECTORIES=${folders}")
    if(works)
      set(${variable} "${folders}" PARENT_SCOPE)
      return()
    endif()
  endforeach()
  set(${variable} NOTFOUND PARENT_SCOPE)
endfunction()

# dynatrain_try_project(<variable> <name> [<option>...]): whether the project cmake/try/<name> can be
# built; <variable>_REASON is its first error. A project of its own may fail to find its compiler.
function(dynatrain_try_project variable name)
  list(TRANSFORM ARGN PREPEND "-D")
  foreach(setting IN ITEMS
          CMAKE_BUILD_TYPE CMAKE_CXX_FLAGS CMAKE_PREFIX_PATH CMAKE_TOOLCHAIN_FILE GTest_DIR GTEST_ROOT
          CMAKE_CUDA_FLAGS CMAKE_CUDA_HOST_COMPILER CUDAToolkit_ROOT)
    if(DEFINED ${setting})
      string(REPLACE ";" "\\;" value "${${setting}}")
      list(APPEND ARGN "-D${setting}=${value}")
    endif()
  endforeach()
  set(folder "${CMAKE_CURRENT_BINARY_DIR}/try/${name}")
  file(REMOVE_RECURSE "${folder}")
  execute_process(
    COMMAND "${CMAKE_COMMAND}" -S "${PROJECT_SOURCE_DIR}/cmake/try/${name}" -B "${folder}"
            "-G${CMAKE_GENERATOR}" "-DCMAKE_MAKE_PROGRAM=${CMAKE_MAKE_PROGRAM}"
            "-DCMAKE_CXX_COMPILER=${CMAKE_CXX_COMPILER}" ${ARGN}
    RESULT_VARIABLE status OUTPUT_VARIABLE output ERROR_VARIABLE output)
  if(status EQUAL 0)
    execute_process(
      COMMAND "${CMAKE_COMMAND}" --build "${folder}"
      RESULT_VARIABLE status OUTPUT_VARIABLE output ERROR_VARIABLE output)
  endif()
  string(REGEX MATCH "[^\n]*(error:|fatal|cannot find)[^\n]*" reason "${output}")
  if(NOT reason)
    string(REGEX MATCH "CMake Error[^\n]*\n+( +[^\n]+\n+)( +[^\n]+\n+)?( +[^\n]+\n+)?" reason
           "${output}")
    string(REGEX REPLACE "[ \n]+" " " reason "${CMAKE_MATCH_1}${CMAKE_MATCH_2}${CMAKE_MATCH_3}")
  endif()
  string(STRIP "${reason}" reason)
  if(status EQUAL 0)
    set(${variable} ON PARENT_SCOPE)
  else()
    set(${variable} OFF PARENT_SCOPE)
  endif()
  set(${variable}_REASON "${reason}" PARENT_SCOPE)
endfunction()

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

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

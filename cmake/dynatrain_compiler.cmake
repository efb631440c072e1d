# Enables C++20, or stops and says what is missing and how to get it.
include(CheckLanguage)

set(DYNATRAIN_COMPILER_HELP
    "  dynatrain needs a C++20 compiler: g++ 11 or newer, or clang++ 15 or newer.\n"
    "  install one (Debian, Ubuntu: apt-get install g++) or name it: CXX=/path/to/g++")
string(CONCAT DYNATRAIN_COMPILER_HELP ${DYNATRAIN_COMPILER_HELP})

check_language(CXX)
if(NOT CMAKE_CXX_COMPILER)
  message(FATAL_ERROR "no C++ compiler was found; nothing was built\n${DYNATRAIN_COMPILER_HELP}")
endif()

if(NOT CMAKE_BUILD_TYPE AND NOT CMAKE_CONFIGURATION_TYPES)
  set(CMAKE_BUILD_TYPE Release CACHE STRING "Build type" FORCE)
endif()
enable_language(CXX)

set(CMAKE_CXX_STANDARD 20)
set(CMAKE_CXX_STANDARD_REQUIRED ON)
set(CMAKE_CXX_EXTENSIONS OFF)
set(CMAKE_EXPORT_COMPILE_COMMANDS ON)

include(CheckCXXSourceCompiles)
check_cxx_source_compiles("
  #include <bit>
  #include <compare>
  #include <concepts>
  #include <ranges>
  #include <source_location>
  #include <span>
  int main() { return static_cast<int>(std::source_location::current().line()) * 0; }
" DYNATRAIN_HAS_CXX20)
if(NOT DYNATRAIN_HAS_CXX20)
  message(FATAL_ERROR "${CMAKE_CXX_COMPILER} (${CMAKE_CXX_COMPILER_ID} ${CMAKE_CXX_COMPILER_VERSION}) "
                      "cannot compile C++20; nothing was built\n${DYNATRAIN_COMPILER_HELP}")
endif()

# A ccache that may not write its folder fails every compilation.
function(dynatrain_find_ccache)
  find_program(DYNATRAIN_CCACHE_PROGRAM ccache)
  if(DYNATRAIN_CCACHE_PROGRAM)
    file(WRITE "${CMAKE_BINARY_DIR}/try/ccache.cpp" "int main() {}\n")
    execute_process(
      COMMAND "${DYNATRAIN_CCACHE_PROGRAM}" "${CMAKE_CXX_COMPILER}" -c ccache.cpp -o ccache.o
      WORKING_DIRECTORY "${CMAKE_BINARY_DIR}/try"
      RESULT_VARIABLE status OUTPUT_QUIET ERROR_VARIABLE reason ERROR_STRIP_TRAILING_WHITESPACE)
    if(status EQUAL 0)
      set(DYNATRAIN_CCACHE "${DYNATRAIN_CCACHE_PROGRAM}" PARENT_SCOPE)
    else()
      message(STATUS "ccache: not used, ${DYNATRAIN_CCACHE_PROGRAM} does not work: ${reason}")
    endif()
  endif()
endfunction()
set(DYNATRAIN_CCACHE "")
dynatrain_find_ccache()
if(DYNATRAIN_CCACHE AND NOT CMAKE_CXX_COMPILER_LAUNCHER)
  set(CMAKE_CXX_COMPILER_LAUNCHER "${DYNATRAIN_CCACHE}")
endif()

# dynatrain_precompile(<target> <header>...): headers that take longer to read than the files that
# include them. Not under a launcher such as ccache, which keeps nothing that was compiled so.
function(dynatrain_precompile target)
  if(NOT CMAKE_CXX_COMPILER_LAUNCHER)
    target_precompile_headers(${target} PRIVATE ${ARGN})
  endif()
endfunction()

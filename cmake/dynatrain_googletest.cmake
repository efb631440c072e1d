# GoogleTest, as the targets GTest::gtest and GTest::gtest_main: the sources that were named, else the
# system's, else Debian's package where that may be installed, else its repository.
set(DYNATRAIN_GOOGLETEST_SOURCE "" CACHE PATH "GoogleTest's sources, to be used instead of others")
option(DYNATRAIN_INSTALL_GOOGLETEST "Install Debian's package of GoogleTest where it is missing" OFF)

# Sets works and reason.
function(dynatrain_install_googletest)
  execute_process(
    COMMAND "${PROJECT_SOURCE_DIR}/scripts/debian_package" libgtest-dev
    RESULT_VARIABLE status OUTPUT_QUIET ERROR_VARIABLE reason ERROR_STRIP_TRAILING_WHITESPACE)
  set(works OFF)
  if(status EQUAL 0)
    dynatrain_try_project(works googletest)
    set(reason "${works_REASON}")
  endif()
  set(works ${works} PARENT_SCOPE)
  set(reason "${reason}" PARENT_SCOPE)
endfunction()

# Sets DYNATRAIN_GOOGLETEST_SOURCE, or reason.
function(dynatrain_fetch_googletest)
  set(folder "${PROJECT_BINARY_DIR}/googletest-source")
  if(NOT EXISTS "${folder}/CMakeLists.txt")
    file(REMOVE_RECURSE "${folder}")
    execute_process(
      COMMAND "${CMAKE_COMMAND}" -E env GIT_TERMINAL_PROMPT=0
              git -c advice.detachedHead=false clone --quiet --depth 1 --branch v1.15.2
              https://github.com/google/googletest.git "${folder}"
      TIMEOUT 300
      RESULT_VARIABLE status OUTPUT_QUIET ERROR_VARIABLE reason ERROR_STRIP_TRAILING_WHITESPACE)
    if(NOT status EQUAL 0)
      string(REGEX REPLACE ".*\n" "" reason "${reason}")
      set(reason "${reason}" PARENT_SCOPE)
      file(REMOVE_RECURSE "${folder}")
      return()
    endif()
  endif()
  set(DYNATRAIN_GOOGLETEST_SOURCE "${folder}" PARENT_SCOPE)
endfunction()

if(NOT DYNATRAIN_GOOGLETEST_SOURCE)
  dynatrain_try_project(works googletest)
  set(tried "the system's (${works_REASON})")
  if(NOT works AND DYNATRAIN_INSTALL_GOOGLETEST)
    dynatrain_install_googletest()
    string(APPEND tried ", Debian's package (${reason})")
  endif()
  if(works)
    find_package(GTest REQUIRED)
    return()
  endif()
  dynatrain_fetch_googletest()
endif()
if(NOT DYNATRAIN_GOOGLETEST_SOURCE)
  message(FATAL_ERROR "the C++ tests need GoogleTest, and none could be had; no test was built\n"
                      "  tried ${tried}, its repository (${reason})\n"
                      "  install it (Debian, Ubuntu: apt-get install libgtest-dev), or name its "
                      "sources: -DDYNATRAIN_GOOGLETEST_SOURCE=/path/to/googletest")
endif()
set(INSTALL_GTEST OFF)
add_subdirectory("${DYNATRAIN_GOOGLETEST_SOURCE}" "${PROJECT_BINARY_DIR}/googletest" EXCLUDE_FROM_ALL)

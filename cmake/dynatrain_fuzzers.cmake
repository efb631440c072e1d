# The fuzz targets of tests/fuzz with libFuzzer, under sanitizers, and the library with the counters
# that libFuzzer steers by. Where the compiler has none, DYNATRAIN_BUILD_FUZZERS is off, with the reason.
if(DYNATRAIN_BUILD_FUZZERS)
  file(WRITE "${CMAKE_BINARY_DIR}/try/fuzzer.cpp"
       "#include <cstddef>\n#include <cstdint>\n"
       "extern \"C\" int LLVMFuzzerTestOneInput(const std::uint8_t*, std::size_t) { return 0; }\n")
  try_compile(DYNATRAIN_HAS_LIBFUZZER "${CMAKE_BINARY_DIR}/try/fuzzer"
    "${CMAKE_BINARY_DIR}/try/fuzzer.cpp"
    COMPILE_DEFINITIONS -fsanitize=fuzzer,address,undefined
    LINK_OPTIONS -fsanitize=fuzzer,address,undefined)
  if(DYNATRAIN_HAS_LIBFUZZER)
    set(DYNATRAIN_SANITIZER "address,undefined,fuzzer-no-link")
  else()
    message(STATUS "fuzzers: not built, ${CMAKE_CXX_COMPILER} (${CMAKE_CXX_COMPILER_ID} "
                   "${CMAKE_CXX_COMPILER_VERSION}) has no libFuzzer")
    set(DYNATRAIN_BUILD_FUZZERS OFF)
  endif()
endif()

# The Python module dynatrain._native. It includes pybind11 but no torch header: torch's c10d is
# reached when the program runs, so one build serves every supported torch.
find_package(Python 3.10 QUIET COMPONENTS Interpreter Development.Module
             OPTIONAL_COMPONENTS Development.Embed)  # the tests of csrc/torch
if(Python_FOUND)
  dynatrain_try_include(python_include "#include <Python.h>\n" BESIDE ${Python_INCLUDE_DIRS})
endif()
if(NOT Python_FOUND OR python_include STREQUAL "NOTFOUND")
  message(FATAL_ERROR "the headers of Python 3.10 or newer were not found or do not compile "
                      "(${Python_EXECUTABLE}); nothing was built\n"
                      "  install them (Debian, Ubuntu: apt-get install python3-dev), or name "
                      "another Python: -DPython_EXECUTABLE=/path/to/python3")
endif()

if(NOT pybind11_DIR)
  execute_process(
    COMMAND "${Python_EXECUTABLE}" -m pybind11 --cmakedir
    OUTPUT_VARIABLE pybind11_cmake_dir OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET)
  set(pybind11_DIR "${pybind11_cmake_dir}" CACHE PATH "Folder of pybind11Config.cmake")
endif()
set(PYBIND11_FINDPYTHON ON)
find_package(pybind11 3.0 CONFIG QUIET)
if(NOT pybind11_FOUND)
  message(FATAL_ERROR "pybind11 3.0 or newer was not found for ${Python_EXECUTABLE}; nothing was built\n"
                      "  install it (pip install 'pybind11>=3.0,<4') or let pip do it: pip install "
                      "without --no-build-isolation")
endif()

file(GLOB_RECURSE DYNATRAIN_NATIVE_SOURCES CONFIGURE_DEPENDS csrc/torch/*.cpp)
pybind11_add_module(dynatrain_native MODULE NO_EXTRAS ${DYNATRAIN_NATIVE_SOURCES})
set_target_properties(dynatrain_native PROPERTIES
  OUTPUT_NAME _native
  LIBRARY_OUTPUT_DIRECTORY "${DYNATRAIN_NATIVE_DIR}")
target_include_directories(dynatrain_native PRIVATE ${PROJECT_SOURCE_DIR}/csrc)
target_compile_definitions(dynatrain_native PRIVATE DYNATRAIN_VERSION="${PROJECT_VERSION}")
target_link_libraries(dynatrain_native PRIVATE dynatrain::core ${CMAKE_DL_LIBS})
dynatrain_own_target(dynatrain_native)
dynatrain_precompile(dynatrain_native <pybind11/pybind11.h> <pybind11/stl.h>)

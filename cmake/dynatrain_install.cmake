# The torch-free core as a CMake package: find_package(dynatrain), target dynatrain::core.
include(CMakePackageConfigHelpers)

set(DYNATRAIN_PACKAGE_DIR "${CMAKE_INSTALL_LIBDIR}/cmake/dynatrain")
configure_package_config_file(
  cmake/dynatrainConfig.cmake.in "${PROJECT_BINARY_DIR}/dynatrainConfig.cmake"
  INSTALL_DESTINATION "${DYNATRAIN_PACKAGE_DIR}")
write_basic_package_version_file(
  "${PROJECT_BINARY_DIR}/dynatrainConfigVersion.cmake" COMPATIBILITY SameMinorVersion)

install(TARGETS dynatrain_core EXPORT dynatrainTargets COMPONENT core)
install(DIRECTORY include/dynatrain DESTINATION "${CMAKE_INSTALL_INCLUDEDIR}" COMPONENT core
        FILES_MATCHING PATTERN "*.hpp")
install(EXPORT dynatrainTargets NAMESPACE dynatrain::
        DESTINATION "${DYNATRAIN_PACKAGE_DIR}" COMPONENT core)
install(FILES "${PROJECT_BINARY_DIR}/dynatrainConfig.cmake"
              "${PROJECT_BINARY_DIR}/dynatrainConfigVersion.cmake"
        DESTINATION "${DYNATRAIN_PACKAGE_DIR}" COMPONENT core)

# The package that plugins are built against: programs, liblmc.so, the headers
# of dialects and passes, and lmcConfig.cmake. Included by passes/, whose
# library it installs.
include(CMakePackageConfigHelpers)

# What a plugin may include. The stamp is made of these, so that a plugin and
# a compiler that disagree about one of them do not meet.
file(GLOB LMC_PUBLIC_HEADERS CONFIGURE_DEPENDS RELATIVE ${PROJECT_SOURCE_DIR}
  ${PROJECT_SOURCE_DIR}/dialects/*/*.h ${PROJECT_SOURCE_DIR}/dialects/*/*.td
  ${PROJECT_SOURCE_DIR}/passes/*.h ${PROJECT_SOURCE_DIR}/passes/lm/*.h
  ${PROJECT_SOURCE_DIR}/passes/dist/*.h ${PROJECT_SOURCE_DIR}/passes/plan/*.h
  ${PROJECT_SOURCE_DIR}/passes/lm/*.td ${PROJECT_SOURCE_DIR}/passes/dist/*.td
  ${PROJECT_SOURCE_DIR}/passes/plan/*.td)
list(SORT LMC_PUBLIC_HEADERS)

set(stamp ${PROJECT_BINARY_DIR}/passes/PluginStamp.h)
set(headers ${LMC_PUBLIC_HEADERS})
list(TRANSFORM headers PREPEND ${PROJECT_SOURCE_DIR}/)
list(JOIN headers "\n" lines)
file(GENERATE OUTPUT ${PROJECT_BINARY_DIR}/passes/PluginStamp.txt
     CONTENT "${lines}\n")
add_custom_command(
  OUTPUT ${stamp}
  COMMAND ${CMAKE_COMMAND} -DOUTPUT=${stamp} -DVERSION=${PROJECT_VERSION}
          -DHEADERS=${PROJECT_BINARY_DIR}/passes/PluginStamp.txt -P
          ${PROJECT_SOURCE_DIR}/tools/cmake/PluginStamp.cmake
  DEPENDS ${headers} ${PROJECT_BINARY_DIR}/passes/PluginStamp.txt
          ${PROJECT_SOURCE_DIR}/tools/cmake/PluginStamp.cmake
  VERBATIM)
add_custom_target(LmcPluginStamp DEPENDS ${stamp})

set(include ${CMAKE_INSTALL_INCLUDEDIR}/lmc)
foreach(header IN LISTS LMC_PUBLIC_HEADERS)
  get_filename_component(folder ${header} DIRECTORY)
  install(FILES ${PROJECT_SOURCE_DIR}/${header}
          DESTINATION ${include}/${folder})
endforeach()
install(FILES ${stamp} DESTINATION ${include}/passes)
foreach(folder dialects/lm dialects/dist dialects/plan passes/lm passes/dist
               passes/plan)
  install(DIRECTORY ${PROJECT_BINARY_DIR}/${folder}/
          DESTINATION ${include}/${folder}
          FILES_MATCHING PATTERN "*.h.inc"
          PATTERN CMakeFiles EXCLUDE)
endforeach()

install(TARGETS lmc EXPORT lmcTargets
        LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR})
set(package ${CMAKE_INSTALL_LIBDIR}/cmake/lmc)
install(EXPORT lmcTargets NAMESPACE lmc:: DESTINATION ${package})
configure_package_config_file(
  ${PROJECT_SOURCE_DIR}/tools/cmake/lmcConfig.cmake.in
  ${PROJECT_BINARY_DIR}/lmcConfig.cmake
  INSTALL_DESTINATION ${package}
  PATH_VARS include CMAKE_INSTALL_BINDIR
  NO_CHECK_REQUIRED_COMPONENTS_MACRO)
write_basic_package_version_file(${PROJECT_BINARY_DIR}/lmcConfigVersion.cmake
                                 COMPATIBILITY ExactVersion)
install(FILES ${PROJECT_BINARY_DIR}/lmcConfig.cmake
              ${PROJECT_BINARY_DIR}/lmcConfigVersion.cmake
        DESTINATION ${package})

# Where the installed programs find liblmc.so and LLVM.
function(lmc_install_program target)
  file(RELATIVE_PATH libraries /${CMAKE_INSTALL_BINDIR}
       /${CMAKE_INSTALL_LIBDIR})
  set_target_properties(${target} PROPERTIES INSTALL_RPATH
    "$ORIGIN/${libraries};${LLVM_LIBRARY_DIRS}")
  install(TARGETS ${target} RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR})
endfunction()

# The compiler's targets. Each folder is an object library; all of them make
# one shared library, liblmc.so, which tools and plugins link.
set_property(GLOBAL PROPERTY LMC_COMPILER_OBJECTS "")

# Compile flags of everything that includes MLIR.
set(LMC_COMPILER_FLAGS -fno-rtti -fno-exceptions -Wno-unused-parameter)

# lmc_compiler_library(name sources... [DEPENDS targets...])
function(lmc_compiler_library name)
  cmake_parse_arguments(ARG "" "" "DEPENDS" ${ARGN})
  add_library(${name} OBJECT ${ARG_UNPARSED_ARGUMENTS})
  target_compile_options(${name} PRIVATE ${LMC_COMPILER_FLAGS})
  target_include_directories(${name} SYSTEM PRIVATE ${LLVM_INCLUDE_DIRS}
                                                    ${MLIR_INCLUDE_DIRS})
  if(ARG_DEPENDS)
    add_dependencies(${name} ${ARG_DEPENDS})
  endif()
  set_property(GLOBAL APPEND PROPERTY LMC_COMPILER_OBJECTS ${name})
endfunction()

# lmc_tablegen(td outputs...): outputs are pairs "file -gen-flag...".
macro(lmc_tablegen target td)
  set(LLVM_TARGET_DEFINITIONS ${td})
  set(_entries ${ARGN})
  foreach(_entry IN LISTS _entries)
    separate_arguments(_words UNIX_COMMAND "${_entry}")
    list(POP_FRONT _words _file)
    mlir_tablegen(${_file} ${_words} -I${PROJECT_SOURCE_DIR} -I${MLIR_INCLUDE_DIRS})
  endforeach()
  add_public_tablegen_target(${target})
endmacro()

# Plug-in folders: one source is one entry, its file name is its registered name, nothing else is edited.
#
#   accelerate_plugins(<target>
#     FOLDER accelerate/precision/precisions   # globbed, and globbed again at every build
#     PREFIX precision                         # bf16.cpp defines  PrecisionEntry precision_bf16();
#     TYPE PrecisionEntry
#     HEADER accelerate/precision/choice.h     # declares PrecisionEntry and  std::vector<PrecisionEntry> builtin_precisions();
#     NAMESPACE accelerate::internal)
#
# The generated source defines builtin_<folder>() as the list of all entries, in the order of their names. A table, not
# static initialisers: a static library drops an object file that nothing refers to, and its initialisers with it.

function(accelerate_plugins target)
  cmake_parse_arguments(PARSE_ARGV 1 arg "" "FOLDER;PREFIX;TYPE;HEADER;NAMESPACE" "")
  file(GLOB sources CONFIGURE_DEPENDS "${PROJECT_SOURCE_DIR}/${arg_FOLDER}/*.cpp")
  if(NOT ACCELERATE_WITH_CUDA)
    list(REMOVE_ITEM sources ${ACCELERATE_CUDA_SOURCES})
  endif()
  get_filename_component(plural "${arg_FOLDER}" NAME)
  set(declarations "")
  set(calls "")
  foreach(source IN LISTS sources)
    get_filename_component(name "${source}" NAME_WE)
    if(NOT name MATCHES "^[a-z][a-z0-9_]*$")
      message(FATAL_ERROR "${source}: the file name is the registered name: got `${name}`, expected lower case letters, digits and _. Rename it.")
    endif()
    string(APPEND declarations "${arg_TYPE} ${arg_PREFIX}_${name}();\n")
    list(APPEND calls "${arg_PREFIX}_${name}()")
  endforeach()
  list(JOIN calls ", " calls)
  set(table "${PROJECT_BINARY_DIR}/generated/${arg_FOLDER}.cpp")
  file(CONFIGURE OUTPUT "${table}" @ONLY CONTENT [[
// Generated from the files in @arg_FOLDER@/.
#include "@arg_HEADER@"

#include <vector>

namespace @arg_NAMESPACE@ {

@declarations@
std::vector<@arg_TYPE@> builtin_@plural@() { return {@calls@}; }

}  // namespace @arg_NAMESPACE@
]])
  target_sources(${target} PRIVATE "${table}")
endfunction()

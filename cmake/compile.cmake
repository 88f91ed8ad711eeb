# How sources of this project are compiled: one set of flags for the library, tests, examples and benchmarks, so that
# they share one precompiled header.

option(ACCELERATE_WERROR "Warnings are errors" ${PROJECT_IS_TOP_LEVEL})
option(ACCELERATE_PCH "Use a precompiled header" ON)
set(ACCELERATE_SANITIZE OFF CACHE STRING "ON: address and undefined-behaviour sanitizers; THREAD: data races; OFF")

add_library(accelerate_compile INTERFACE)
target_compile_features(accelerate_compile INTERFACE cxx_std_20)
target_compile_options(accelerate_compile INTERFACE
  # Executables too: a precompiled header is refused where PIC and PIE differ.
  -fPIC -Wall -Wextra $<$<BOOL:${ACCELERATE_WERROR}>:-Werror>)
if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
  # Options are aggregates of which one names some: g++ warns of the others, in C++ and not in C.
  target_compile_options(accelerate_compile INTERFACE -Wno-missing-field-initializers)
endif()
if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU" AND CMAKE_CXX_COMPILER_VERSION VERSION_LESS 13)
  # False alarms of g++ 12 inside std::string where strings are added (GCC bugs 105329 and 105651), and of room inside
  # LibTorch's SmallVector that is asked for its address alone.
  target_compile_options(accelerate_compile INTERFACE -Wno-restrict -Wno-stringop-overflow -Wno-array-bounds
    -Wno-maybe-uninitialized)
endif()
target_include_directories(accelerate_compile INTERFACE "${PROJECT_SOURCE_DIR}" "${PROJECT_BINARY_DIR}/generated")
target_link_libraries(accelerate_compile INTERFACE LibTorch::cpu Threads::Threads)
if(ACCELERATE_SANITIZE)
  if(ACCELERATE_SANITIZE STREQUAL "THREAD")
    set(sanitizers -fsanitize=thread -fno-omit-frame-pointer)
  else()
    set(sanitizers -fsanitize=address,undefined -fno-sanitize-recover=undefined -fno-omit-frame-pointer)
  endif()
  target_compile_options(accelerate_compile INTERFACE ${sanitizers})
  target_link_options(accelerate_compile INTERFACE ${sanitizers})
endif()

# ccache: a compiler launcher of the user's wins.
find_program(ACCELERATE_CCACHE ccache)
mark_as_advanced(ACCELERATE_CCACHE)
if(ACCELERATE_CCACHE AND NOT CMAKE_CXX_COMPILER_LAUNCHER)
  set(ACCELERATE_LAUNCHER "${CMAKE_COMMAND}" -E env CCACHE_SLOPPINESS=pch_defines,time_macros)
  # Where its folder cannot be written, as in a read-only home, ccache fails instead of compiling.
  execute_process(COMMAND "${ACCELERATE_CCACHE}" --get-config cache_dir
    OUTPUT_VARIABLE cache_dir OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET)
  execute_process(COMMAND sh -c "mkdir -p \"$0\" && test -w \"$0\"" "${cache_dir}" RESULT_VARIABLE status ERROR_QUIET)
  if(NOT status EQUAL 0)
    list(APPEND ACCELERATE_LAUNCHER "CCACHE_DIR=${PROJECT_BINARY_DIR}/ccache")
  endif()
  list(APPEND ACCELERATE_LAUNCHER "${ACCELERATE_CCACHE}")
  # Hits on objects that used the precompiled header need one that does not depend on the time it was made.
  if(CMAKE_CXX_COMPILER_ID MATCHES "Clang")
    target_compile_options(accelerate_compile INTERFACE "SHELL:-Xclang -fno-pch-timestamp")
  elseif(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
    target_compile_options(accelerate_compile INTERFACE -fpch-preprocess)
  endif()
endif()

# The fastest linker that the compiler accepts.
include(CheckLinkerFlag)
if(PROJECT_IS_TOP_LEVEL AND NOT CMAKE_EXE_LINKER_FLAGS MATCHES "-fuse-ld")
  foreach(linker mold lld)
    check_linker_flag(CXX -fuse-ld=${linker} ACCELERATE_HAS_${linker})
    if(ACCELERATE_HAS_${linker})
      target_link_options(accelerate_compile INTERFACE -fuse-ld=${linker})
      break()
    endif()
  endforeach()
endif()

# As many compilers as memory carries: about 1.2 GB each for clang, 2 GB for g++, and one link per 3 GB.
cmake_host_system_information(RESULT memory_mb QUERY TOTAL_PHYSICAL_MEMORY)
cmake_host_system_information(RESULT cores QUERY NUMBER_OF_LOGICAL_CORES)
if(EXISTS /sys/fs/cgroup/memory.max)
  file(STRINGS /sys/fs/cgroup/memory.max limit LIMIT_COUNT 1)
  if(limit MATCHES "^[0-9]+$")
    math(EXPR limit_mb "${limit} / 1048576")
    if(limit_mb LESS memory_mb)
      set(memory_mb ${limit_mb})
    endif()
  endif()
endif()
if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
  math(EXPR compile_jobs "${memory_mb} / 2048")
else()
  math(EXPR compile_jobs "${memory_mb} / 1228")
endif()
math(EXPR link_jobs "${memory_mb} / 3072")
foreach(jobs compile_jobs link_jobs)
  if(${jobs} GREATER cores)
    set(${jobs} ${cores})
  elseif(${jobs} LESS 1)
    set(${jobs} 1)
  endif()
endforeach()
set_property(GLOBAL APPEND PROPERTY JOB_POOLS accelerate_compile=${compile_jobs} accelerate_link=${link_jobs})

# The precompiled header's own target; the others reuse it.
if(ACCELERATE_PCH)
  file(CONFIGURE OUTPUT "${PROJECT_BINARY_DIR}/generated/pch.cpp" CONTENT "// The source that a precompiled header is made with.\n")
  add_library(accelerate_pch OBJECT "${PROJECT_BINARY_DIR}/generated/pch.cpp")
  target_link_libraries(accelerate_pch PRIVATE accelerate_compile)
  target_precompile_headers(accelerate_pch PRIVATE "${PROJECT_SOURCE_DIR}/cmake/pch.h")
endif()

# accelerate_compile_like_ours(<target>... [PCH <target>]): flags, precompiled header, launcher and job pools.
function(accelerate_compile_like_ours)
  cmake_parse_arguments(arg "" "PCH" "" ${ARGN})
  if(NOT arg_PCH)
    set(arg_PCH accelerate_pch)
  endif()
  foreach(target ${arg_UNPARSED_ARGUMENTS})
    target_link_libraries(${target} PRIVATE $<BUILD_INTERFACE:accelerate_compile>)
    set_target_properties(${target} PROPERTIES
      CXX_EXTENSIONS OFF
      POSITION_INDEPENDENT_CODE OFF  # -fPIC is among the flags already
      JOB_POOL_COMPILE accelerate_compile
      JOB_POOL_PRECOMPILE_HEADER accelerate_compile
      JOB_POOL_LINK accelerate_link)
    if(ACCELERATE_LAUNCHER)
      set_target_properties(${target} PROPERTIES CXX_COMPILER_LAUNCHER "${ACCELERATE_LAUNCHER}")
    endif()
    if(TARGET ${arg_PCH} AND NOT target STREQUAL arg_PCH)
      target_precompile_headers(${target} REUSE_FROM ${arg_PCH})
    endif()
  endforeach()
endfunction()
if(TARGET accelerate_pch)
  accelerate_compile_like_ours(accelerate_pch)
endif()

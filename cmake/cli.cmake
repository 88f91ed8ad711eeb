# The command line: build/bin/accelerate-cpp. It must start in milliseconds, so neither it nor accelerate_launch links
# LibTorch or uses the precompiled header.

find_package(CLI11 REQUIRED)

# accelerate_compile_without_libtorch(<target>...): the flags, launcher and job pools of accelerate_compile_like_ours().
function(accelerate_compile_without_libtorch)
  foreach(target ${ARGN})
    target_compile_features(${target} PUBLIC cxx_std_20)
    target_compile_options(${target} PRIVATE $<TARGET_PROPERTY:accelerate_compile,INTERFACE_COMPILE_OPTIONS>)
    target_link_options(${target} PRIVATE $<TARGET_PROPERTY:accelerate_compile,INTERFACE_LINK_OPTIONS>)
    target_include_directories(${target} PRIVATE "${PROJECT_SOURCE_DIR}")
    set_target_properties(${target} PROPERTIES
      CXX_EXTENSIONS OFF
      JOB_POOL_COMPILE accelerate_compile
      JOB_POOL_LINK accelerate_link)
    if(ACCELERATE_LAUNCHER)
      set_target_properties(${target} PROPERTIES CXX_COMPILER_LAUNCHER "${ACCELERATE_LAUNCHER}")
    endif()
  endforeach()
endfunction()

file(GLOB launch_sources CONFIGURE_DEPENDS accelerate/launch/*.cpp)
add_library(accelerate_launch STATIC ${launch_sources} accelerate/launch.cpp accelerate/core/env.cpp accelerate/core/error.cpp)
accelerate_compile_without_libtorch(accelerate_launch)
target_link_libraries(accelerate_launch PUBLIC ${CMAKE_DL_LIBS})

file(GLOB cli_sources CONFIGURE_DEPENDS accelerate/cli/*.cpp accelerate/cli/commands/*.cpp)
add_executable(accelerate-cpp ${cli_sources})
accelerate_compile_without_libtorch(accelerate-cpp)
target_link_libraries(accelerate-cpp PRIVATE accelerate_launch CLI11::CLI11)
target_compile_definitions(accelerate-cpp PRIVATE ACCELERATE_VERSION="${PROJECT_VERSION}")
set_target_properties(accelerate-cpp PROPERTIES RUNTIME_OUTPUT_DIRECTORY "${PROJECT_BINARY_DIR}/bin")
accelerate_plugins(accelerate-cpp FOLDER accelerate/cli/commands PREFIX command
  TYPE Command HEADER accelerate/cli/command.h NAMESPACE accelerate::internal)

if(ACCELERATE_INSTALL)
  install(TARGETS accelerate-cpp RUNTIME DESTINATION "${CMAKE_INSTALL_BINDIR}")
endif()

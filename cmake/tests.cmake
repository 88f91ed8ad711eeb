# Folders of tests.

include(GoogleTest)
find_package(GTest REQUIRED)
find_package(rapidcheck REQUIRED)

# Tests see the library's variables only where they set them.
set(ACCELERATE_TEST_ENVIRONMENT
  ACCELERATE_MIXED_PRECISION=unset: ACCELERATE_GRADIENT_ACCUMULATION_STEPS=unset: ACCELERATE_USE_CPU=unset:
  OMP_NUM_THREADS=set:1)

# accelerate_test_folder(<folder>): its sources and those one folder below make <folder>_tests; every test is a process
# of its own in CTest, named <folder>/Suite.Test, labelled <folder>.
function(accelerate_test_folder folder)
  file(GLOB sources CONFIGURE_DEPENDS ${folder}/*.cpp ${folder}/*/*.cpp)
  if(NOT sources)
    return()
  endif()
  set(target ${folder}_tests)
  add_executable(${target} ${sources})
  accelerate_compile_like_ours(${target})
  target_link_libraries(${target} PRIVATE
    accelerate GTest::gmock_main GTest::gmock GTest::gtest rapidcheck nlohmann_json::nlohmann_json)
  target_compile_definitions(${target} PRIVATE ACCELERATE_SOURCE_DIR="${PROJECT_SOURCE_DIR}")
  gtest_discover_tests(${target}
    TEST_PREFIX ${folder}/
    DISCOVERY_TIMEOUT 120
    PROPERTIES LABELS ${folder} TIMEOUT 300)
endfunction()

# accelerate_compile_fail_folder(<folder>): every source must not compile, and the compiler must say what the first line
# of the source expects: `// expect: <regular expression>`. One CTest each, labelled compile_fail.
function(accelerate_compile_fail_folder folder)
  file(GLOB sources CONFIGURE_DEPENDS ${folder}/*.cpp)
  if(NOT sources)
    return()
  endif()
  # The compile line of a test, one argument a line, as the build knows it.
  set(arguments "${CMAKE_CURRENT_BINARY_DIR}/compile_line.rsp")
  set(system "$<TARGET_PROPERTY:LibTorch::headers,INTERFACE_INCLUDE_DIRECTORIES>")
  set(definitions "$<TARGET_PROPERTY:LibTorch::headers,INTERFACE_COMPILE_DEFINITIONS>")
  file(GENERATE OUTPUT "${arguments}" CONTENT
    "-std=c++20\n-fPIC\n-fsyntax-only\n-I\"${PROJECT_SOURCE_DIR}\"\n-isystem\"$<JOIN:${system},\"\n-isystem\">\"\n-D$<JOIN:${definitions},\n-D>\n")
  foreach(source IN LISTS sources)
    get_filename_component(name "${source}" NAME_WE)
    add_test(NAME ${folder}/${name} COMMAND "${CMAKE_COMMAND}"
      "-DCOMPILER=${CMAKE_CXX_COMPILER}" "-DARGUMENTS=${arguments}" "-DSOURCE=${source}"
      -P "${PROJECT_SOURCE_DIR}/cmake/expect_compile_error.cmake")
    set_tests_properties(${folder}/${name} PROPERTIES LABELS compile_fail TIMEOUT 300)
  endforeach()
endfunction()

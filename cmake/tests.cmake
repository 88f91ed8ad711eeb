# Folders of tests.

include(GoogleTest)
find_package(GTest REQUIRED)
find_package(rapidcheck REQUIRED)

# What a test finds in its environment does not depend on the shell that runs CTest: variables the library reads are
# unset, and one thread each is what `ctest -j` shares out. Only the folder gpu computes on GPUs.
set(ACCELERATE_TEST_ENVIRONMENT OMP_NUM_THREADS=set:1)
foreach(variable
    ACCELERATE_MIXED_PRECISION ACCELERATE_GRADIENT_ACCUMULATION_STEPS ACCELERATE_USE_CPU ACCELERATE_DEBUG_MODE
    ACCELERATE_TORCH_DEVICE ACCELERATE_LOG_LEVEL ACCELERATE_CPU_AFFINITY ACCELERATE_DYNAMO_BACKEND
    RANK LOCAL_RANK WORLD_SIZE LOCAL_WORLD_SIZE MASTER_ADDR MASTER_PORT)
  list(APPEND ACCELERATE_TEST_ENVIRONMENT ${variable}=unset:)
endforeach()
if(ACCELERATE_SANITIZE)
  list(APPEND ACCELERATE_TEST_ENVIRONMENT UBSAN_OPTIONS=set:print_stacktrace=1
    "TSAN_OPTIONS=set:suppressions=${PROJECT_SOURCE_DIR}/tests/support/tsan.supp")
endif()

# What tests include besides, and as little optimisation as pays: they are compiled more often than they run.
if(ACCELERATE_PCH)
  add_library(accelerate_test_pch OBJECT "${PROJECT_BINARY_DIR}/generated/pch.cpp")
  accelerate_compile_like_ours(accelerate_test_pch PCH accelerate_test_pch)
  target_compile_options(accelerate_test_pch PRIVATE $<$<CONFIG:Release>:-O1>)
  target_link_libraries(accelerate_test_pch PRIVATE GTest::gmock GTest::gtest rapidcheck)
  target_precompile_headers(accelerate_test_pch PRIVATE "${PROJECT_SOURCE_DIR}/cmake/pch.h"
    <gmock/gmock.h> <gtest/gtest.h> <rapidcheck.h> <rapidcheck/gtest.h>)
endif()

# accelerate_test_folder(<folder>): its sources and those one folder below make <folder>_tests; every test is a process
# of its own in CTest, named <folder>/Suite.Test, labelled <folder>.
function(accelerate_test_folder folder)
  file(GLOB sources CONFIGURE_DEPENDS ${folder}/*.cpp ${folder}/*/*.cpp)
  if(NOT sources)
    return()
  endif()
  set(target ${folder}_tests)
  add_executable(${target} ${sources})
  accelerate_compile_like_ours(${target} PCH accelerate_test_pch)
  target_compile_options(${target} PRIVATE $<$<CONFIG:Release>:-O1>)
  target_link_libraries(${target} PRIVATE
    accelerate GTest::gmock_main GTest::gmock GTest::gtest rapidcheck nlohmann_json::nlohmann_json)
  target_compile_definitions(${target} PRIVATE ACCELERATE_SOURCE_DIR="${PROJECT_SOURCE_DIR}")
  gtest_discover_tests(${target}
    TEST_PREFIX ${folder}/
    NO_PRETTY_VALUES  # else a parameter that cannot be printed puts its bytes into the test's name
    DISCOVERY_TIMEOUT 120
    PROPERTIES LABELS ${folder} TIMEOUT 300)
  # A property that is a list does not pass through gtest_discover_tests(): it is set where the tests are added.
  set(variables ${ACCELERATE_TEST_ENVIRONMENT})
  if(NOT folder STREQUAL "gpu")
    list(APPEND variables CUDA_VISIBLE_DEVICES=set:)
  endif()
  set(environment "${CMAKE_CURRENT_BINARY_DIR}/${folder}_environment.cmake")
  file(CONFIGURE OUTPUT "${environment}" @ONLY CONTENT
    "set_tests_properties(\${@target@_TESTS} PROPERTIES ENVIRONMENT_MODIFICATION \"@variables@\")\n")
  set_property(DIRECTORY APPEND PROPERTY TEST_INCLUDE_FILES "${environment}")
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

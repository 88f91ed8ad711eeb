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

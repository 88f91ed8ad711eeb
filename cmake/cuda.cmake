# Whether this build trains on GPUs. Everything that includes a header of CUDA is in ACCELERATE_CUDA_SOURCES: without
# CUDA they are not compiled, and nothing of CUDA is linked. What only computes on CUDA tensors is no matter of the
# build: LibTorch's operators choose their kernels at run time.

file(GLOB ACCELERATE_CUDA_SOURCES CONFIGURE_DEPENDS "${PROJECT_SOURCE_DIR}/accelerate/comm/backends/nccl.cpp"
  "${PROJECT_SOURCE_DIR}/accelerate/step/captures/cuda.cpp")

string(TOUPPER "${ACCELERATE_CUDA}" ACCELERATE_WITH_CUDA)
set_property(CACHE ACCELERATE_CUDA PROPERTY STRINGS AUTO ON OFF)
if(NOT ACCELERATE_WITH_CUDA MATCHES "^(AUTO|ON|OFF)$")
  message(FATAL_ERROR "ACCELERATE_CUDA is not a choice: got `${ACCELERATE_CUDA}`, expected AUTO, ON or OFF.")
endif()
if(ACCELERATE_WITH_CUDA STREQUAL "OFF")
  find_package(LibTorch REQUIRED)
  message(STATUS "CUDA: off, as ACCELERATE_CUDA says")
else()
  find_package(LibTorch REQUIRED OPTIONAL_COMPONENTS cuda cuda_headers)
  set(problem "${LibTorch_cuda_PROBLEM}")
  if(NOT problem)
    set(problem "${LibTorch_cuda_headers_PROBLEM}")
  endif()
  set(remedy "Type `scripts/setup --cuda`, which brings all of it, or install the wheels named into the same Python")
  if(NOT problem)
    set(ACCELERATE_WITH_CUDA ON)
    message(STATUS "CUDA: on")
  elseif(ACCELERATE_WITH_CUDA STREQUAL "AUTO")
    set(ACCELERATE_WITH_CUDA OFF)
    message(STATUS "CUDA: off, since ${problem}. ${remedy}.")
  else()
    message(FATAL_ERROR "ACCELERATE_CUDA is ON, and ${problem}. ${remedy}, or pass -DACCELERATE_CUDA=OFF.")
  endif()
endif()
set(ACCELERATE_LIBTORCH_COMPONENTS "")
if(ACCELERATE_WITH_CUDA)
  set(ACCELERATE_LIBTORCH_COMPONENTS "COMPONENTS cuda")  # for the package's users, who compile nothing of it
endif()

# Compiles the CUDA sources into `target` and has whoever links it load LibTorch's CUDA libraries.
function(accelerate_add_cuda target)
  if(NOT ACCELERATE_WITH_CUDA)
    return()
  endif()
  target_link_libraries(${target} PUBLIC LibTorch::cuda)
  if(NOT ACCELERATE_CUDA_SOURCES)
    return()
  endif()
  # Apart from the other sources: CUDA's headers and definitions are for these alone, and no precompiled header has them.
  add_library(${target}_cuda OBJECT ${ACCELERATE_CUDA_SOURCES})
  accelerate_compile_like_ours(${target}_cuda)
  set_target_properties(${target}_cuda PROPERTIES DISABLE_PRECOMPILE_HEADERS ON)
  target_link_libraries(${target}_cuda PRIVATE LibTorch::cuda_headers)
  target_sources(${target} PRIVATE $<TARGET_OBJECTS:${target}_cuda>)
endfunction()

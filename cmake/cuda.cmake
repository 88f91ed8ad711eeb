# Whether this build trains on GPUs. Everything that includes a header of CUDA is in ACCELERATE_CUDA_SOURCES: without
# CUDA they are not compiled, and nothing of CUDA is linked. What only computes on CUDA tensors is no matter of the
# build: LibTorch's operators choose their kernels at run time.

file(GLOB ACCELERATE_CUDA_SOURCES CONFIGURE_DEPENDS "${PROJECT_SOURCE_DIR}/accelerate/comm/backends/nccl.cpp"
  "${PROJECT_SOURCE_DIR}/accelerate/data/prefetch/transfers/cuda.cpp"
  "${PROJECT_SOURCE_DIR}/accelerate/nn/kernels/devices/cuda.cpp"
  "${PROJECT_SOURCE_DIR}/accelerate/optim/kernels/devices/cuda.cpp"
  "${PROJECT_SOURCE_DIR}/accelerate/step/captures/cuda.cpp")
# Kernels: no header of LibTorch but those of its number types, so that nvcc is quick.
file(GLOB_RECURSE ACCELERATE_CUDA_KERNELS CONFIGURE_DEPENDS "${PROJECT_SOURCE_DIR}/accelerate/*.cu")

# The compiler of the wheels beside LibTorch, else one that is installed. CMake's own language CUDA is not used: it
# links a program before anything else, for which the wheels lack libcudart.so.
function(accelerate_find_nvcc problem)
  get_filename_component(wheels "${LibTorch_ROOT_DIR}/../nvidia/cu13/bin" ABSOLUTE)
  find_program(ACCELERATE_NVCC nvcc HINTS "${wheels}" PATHS /usr/local/cuda/bin ENV CUDA_PATH PATH_SUFFIXES bin
    DOC "The compiler of the kernels for CUDA")
  mark_as_advanced(ACCELERATE_NVCC)
  set(${problem} "" PARENT_SCOPE)
  if(NOT ACCELERATE_NVCC)
    set(${problem} "there is no nvcc (wheel nvidia-cuda-nvcc) beside LibTorch, in /usr/local/cuda or in PATH" PARENT_SCOPE)
    return()
  endif()
  execute_process(COMMAND "${ACCELERATE_NVCC}" --version OUTPUT_VARIABLE text ERROR_QUIET)
  string(REGEX MATCH "release ([0-9]+)\\.[0-9]+" version "${text}")
  if(NOT CMAKE_MATCH_1 EQUAL 13)
    set(${problem} "${ACCELERATE_NVCC} is `${version}`, and LibTorch was built with release 13" PARENT_SCOPE)
  endif()
endfunction()

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
  if(NOT problem)
    accelerate_find_nvcc(problem)
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
  foreach(source IN LISTS ACCELERATE_CUDA_KERNELS)
    file(RELATIVE_PATH name "${PROJECT_SOURCE_DIR}" "${source}")
    set(object "${PROJECT_BINARY_DIR}/kernels/${name}.o")
    get_filename_component(folder "${object}" DIRECTORY)
    file(MAKE_DIRECTORY "${folder}")
    set(system "$<TARGET_PROPERTY:LibTorch::headers,INTERFACE_INCLUDE_DIRECTORIES>")
    add_custom_command(OUTPUT "${object}"
      COMMAND "${ACCELERATE_NVCC}" -std=c++20 -O3 -DNDEBUG -ccbin "${CMAKE_CXX_COMPILER}"
        # Code for Hopper, and PTX that the driver compiles for every other GPU that LibTorch knows.
        -gencode arch=compute_90,code=sm_90 -gencode arch=compute_75,code=compute_75
        -Xcompiler -fPIC,-Wall,-Wextra $<$<BOOL:${ACCELERATE_WERROR}>:-Werror=all-warnings>
        -I "${PROJECT_SOURCE_DIR}" -isystem "$<JOIN:${system},;-isystem;>"
        -MD -MF "${object}.d" -c "${source}" -o "${object}"
      DEPENDS "${source}" DEPFILE "${object}.d" COMMENT "Compiling ${name}" VERBATIM COMMAND_EXPAND_LISTS)
    set_source_files_properties("${object}" PROPERTIES EXTERNAL_OBJECT ON GENERATED ON)
    target_sources(${target} PRIVATE "${object}")
  endforeach()
endfunction()

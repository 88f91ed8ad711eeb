# LibTorch as targets, from its headers and libraries.
#
# LibTorch's own package insists on a CUDA toolkit when it is a CUDA build, which the published wheel is, and it links
# everything. Here each level names what it needs:
#
#   LibTorch::cpu            host code on CPU tensors: libtorch_cpu and libc10. A process linked with it loads no CUDA
#                            library of LibTorch, whichever build that is.
#   LibTorch::cuda           component `cuda`: what a process on GPUs links besides
#   LibTorch::cuda_headers   component `cuda_headers`: for sources that include CUDA's headers
#
# Variables: LibTorch_FOUND, LibTorch_ROOT_DIR, LibTorch_VERSION, and for each component LibTorch_<component>_FOUND and
# LibTorch_<component>_PROBLEM, a phrase that says what is missing. Where it is looked for: LocateLibTorch.cmake.

include("${CMAKE_CURRENT_LIST_DIR}/LocateLibTorch.cmake")
include("${CMAKE_CURRENT_LIST_DIR}/LibTorchCuda.cmake")

# From an installed package, the project is the one that looks for it.
if(EXISTS "${CMAKE_CURRENT_LIST_DIR}/../accelerate/accelerate.h")
  get_filename_component(_accelerate_project "${CMAKE_CURRENT_LIST_DIR}/.." ABSOLUTE)
else()
  set(_accelerate_project "${CMAKE_SOURCE_DIR}")
endif()
accelerate_locate_libtorch(LibTorch_ROOT_DIR LibTorch_PROBLEM
  PROJECT_DIR "${_accelerate_project}" HINT "${LibTorch_BUILT_WITH}")
if(LibTorch_PROBLEM)
  set(LibTorch_FOUND FALSE)
  if(LibTorch_FIND_REQUIRED)
    message(FATAL_ERROR "${LibTorch_PROBLEM}")
  elseif(NOT LibTorch_FIND_QUIETLY)
    message(STATUS "${LibTorch_PROBLEM}")
  endif()
  return()
endif()
_accelerate_libtorch_version("${LibTorch_ROOT_DIR}" LibTorch_VERSION)
set(LibTorch_FOUND TRUE)
message(STATUS "LibTorch ${LibTorch_VERSION}: ${LibTorch_ROOT_DIR}")

if(NOT TARGET LibTorch::cpu)
  # What every level shares: headers, and the definitions that decide about layouts in them.
  add_library(LibTorch::headers INTERFACE IMPORTED GLOBAL)
  set_target_properties(LibTorch::headers PROPERTIES
    INTERFACE_INCLUDE_DIRECTORIES
      "${LibTorch_ROOT_DIR}/include;${LibTorch_ROOT_DIR}/include/torch/csrc/api/include"
    # LibTorch is built with NDEBUG, and some of its classes have other members without it (at::RecordFunction):
    # it holds in debug builds too.
    INTERFACE_COMPILE_DEFINITIONS
      "NDEBUG;_GLIBCXX_USE_CXX11_ABI=1;USE_DISTRIBUTED;USE_C10D_GLOO;USE_RPC;USE_TENSORPIPE")

  foreach(library c10 torch_cpu)
    add_library(LibTorch::${library} SHARED IMPORTED GLOBAL)
    set_target_properties(LibTorch::${library} PROPERTIES
      IMPORTED_LOCATION "${LibTorch_ROOT_DIR}/lib/lib${library}.so"
      IMPORTED_SONAME "lib${library}.so")
  endforeach()

  add_library(LibTorch::cpu INTERFACE IMPORTED GLOBAL)
  set_target_properties(LibTorch::cpu PROPERTIES
    INTERFACE_LINK_LIBRARIES "LibTorch::headers;LibTorch::torch_cpu;LibTorch::c10"
    # What libtorch_cpu itself needs (libcudart and libcupti in a CUDA build) is found by its own RPATH at run time.
    INTERFACE_LINK_OPTIONS "LINKER:--unresolved-symbols=ignore-in-shared-libs")
endif()

if(LibTorch_FIND_COMPONENTS)
  accelerate_libtorch_cuda("${LibTorch_ROOT_DIR}" LibTorch_cuda_PROBLEM LibTorch_cuda_headers_PROBLEM)
  foreach(component IN LISTS LibTorch_FIND_COMPONENTS)
    set(LibTorch_${component}_FOUND FALSE)
    if(TARGET LibTorch::${component})
      set(LibTorch_${component}_FOUND TRUE)
    elseif(LibTorch_FIND_REQUIRED_${component})
      set(LibTorch_FOUND FALSE)
      if(LibTorch_FIND_REQUIRED)
        message(FATAL_ERROR "LibTorch's CUDA level is needed, and ${LibTorch_${component}_PROBLEM}.")
      endif()
    endif()
  endforeach()
endif()

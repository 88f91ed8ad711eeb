# The CUDA level of a LibTorch, from the NVIDIA wheels that are installed beside it; no toolkit is looked at.
#
#   LibTorch::cuda           link this beside LibTorch::cpu: libtorch_cuda and libc10_cuda, loaded also where nothing
#                            calls them, libcudart and libnccl
#   LibTorch::cuda_headers   for the few sources that include ATen/cuda, c10/cuda or ProcessGroupNCCL.hpp
#
# accelerate_libtorch_cuda(<root> <libraries-problem> <headers-problem>) makes those whose parts are there; a problem is
# a phrase that says what is missing, or empty.

# What libtorch_cuda.so, with all it loads, does not find on this machine.
function(_accelerate_unresolved library result)
  set(${result} "" PARENT_SCOPE)
  execute_process(COMMAND ldd "${library}" OUTPUT_VARIABLE needed ERROR_QUIET)
  string(REGEX MATCHALL "[^ \t\n]+ => not found" lost "${needed}")
  list(TRANSFORM lost REPLACE " => not found" "")
  list(REMOVE_DUPLICATES lost)
  list(JOIN lost ", " lost)
  set(${result} "${lost}" PARENT_SCOPE)
endfunction()

function(accelerate_libtorch_cuda root libraries_problem headers_problem)
  set(${libraries_problem} "" PARENT_SCOPE)
  set(${headers_problem} "" PARENT_SCOPE)
  if(TARGET LibTorch::cuda AND TARGET LibTorch::cuda_headers)
    return()
  endif()
  set(torch_cuda "${root}/lib/libtorch_cuda.so")
  set(c10_cuda "${root}/lib/libc10_cuda.so")
  if(NOT EXISTS "${torch_cuda}" OR NOT EXISTS "${c10_cuda}")
    set(${libraries_problem} "LibTorch at ${root} is a build for the CPU (no lib/libtorch_cuda.so)" PARENT_SCOPE)
    set(${headers_problem} "LibTorch at ${root} is a build for the CPU" PARENT_SCOPE)
    return()
  endif()

  # The wheels lie beside LibTorch: site-packages/torch, site-packages/nvidia.
  get_filename_component(nvidia "${root}/../nvidia" ABSOLUTE)
  file(GLOB cudart "${nvidia}/cu13/lib/libcudart.so.*")
  file(GLOB nccl "${nvidia}/nccl/lib/libnccl.so.*")
  _accelerate_unresolved("${torch_cuda}" lost)
  set(missing "")
  if(NOT cudart)
    list(APPEND missing "libcudart.so (wheel nvidia-cuda-runtime)")
  endif()
  if(NOT nccl)
    list(APPEND missing "libnccl.so (wheel nvidia-nccl-cu13)")
  endif()
  if(lost)
    list(APPEND missing "what libtorch_cuda.so loads: ${lost}")
  endif()
  if(missing)
    list(JOIN missing "; " missing)
    set(${libraries_problem} "beside LibTorch at ${root} there is no ${missing}" PARENT_SCOPE)
  elseif(NOT TARGET LibTorch::cuda)
    foreach(library "${c10_cuda}" "${torch_cuda}" "${cudart}" "${nccl}")
      get_filename_component(soname "${library}" NAME)
      string(REGEX REPLACE "^lib([a-z0-9_]+)\\.so.*" "\\1" name "${soname}")
      add_library(LibTorch::${name} SHARED IMPORTED GLOBAL)
      set_target_properties(LibTorch::${name} PROPERTIES IMPORTED_LOCATION "${library}" IMPORTED_SONAME "${soname}")
    endforeach()
    add_library(LibTorch::cuda INTERFACE IMPORTED GLOBAL)
    set_target_properties(LibTorch::cuda PROPERTIES
      INTERFACE_LINK_LIBRARIES "LibTorch::torch_cuda;LibTorch::c10_cuda;LibTorch::cudart;LibTorch::nccl"
      # Its kernels register themselves when it is loaded: a linker that drops what nobody calls would drop them.
      INTERFACE_LINK_OPTIONS "LINKER:--no-as-needed;LINKER:--unresolved-symbols=ignore-in-shared-libs")
  endif()

  set(missing "")
  foreach(wanted
      "cu13/include/cuda_runtime_api.h|nvidia-cuda-runtime" "cu13/include/crt/host_defines.h|nvidia-cuda-crt"
      "cu13/include/nv/target|nvidia-cuda-cccl" "cu13/include/cublas_v2.h|nvidia-cublas"
      "cu13/include/cusparse.h|nvidia-cusparse" "cu13/include/cusolverDn.h|nvidia-cusolver"
      "nccl/include/nccl.h|nvidia-nccl-cu13")
    string(REPLACE "|" ";" wanted "${wanted}")
    list(GET wanted 0 header)
    list(GET wanted 1 wheel)
    if(NOT EXISTS "${nvidia}/${header}")
      get_filename_component(name "${header}" NAME)
      list(APPEND missing "${name} (wheel ${wheel})")
    endif()
  endforeach()
  if(missing)
    list(JOIN missing ", " missing)
    set(${headers_problem} "beside LibTorch at ${root} there is no ${missing}" PARENT_SCOPE)
  elseif(NOT TARGET LibTorch::cuda_headers)
    add_library(LibTorch::cuda_headers INTERFACE IMPORTED GLOBAL)
    set_target_properties(LibTorch::cuda_headers PROPERTIES
      INTERFACE_INCLUDE_DIRECTORIES
        "${nvidia}/cu13/include;${nvidia}/nccl/include"
      # They decide about layouts in c10d's headers.
      INTERFACE_COMPILE_DEFINITIONS "USE_C10D_NCCL;USE_NVSHMEM")
  endif()
endfunction()

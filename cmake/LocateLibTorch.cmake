# Where LibTorch is, and whether it is the version this library is written for.
#
#   accelerate_locate_libtorch(<root> <problem> [PROJECT_DIR <dir>] [HINT <root>])
#
# sets <root> to the folder that holds LibTorch's include/ and lib/, or <problem> to one paragraph: what was
# found, what is needed, the line to type; LibTorch_POINTED says that place 1 decided. Places, in this order:
#   1. Torch_DIR and CMAKE_PREFIX_PATH, as variables or in the environment: a LibTorch folder, or a wheel's
#      share/cmake. Who points there means it: a wrong version is an error, not a reason to look further.
#   2. HINT: the LibTorch an installed package was built with.
#   3. The torch package of the active Python.
#   4. The torch package in <PROJECT_DIR>/.venv.
#
# As a script, `cmake -P LocateLibTorch.cmake` prints one line: `found <root>`, `wrong <paragraph>` (of the place that
# somebody pointed to) or `none <paragraph>`.

cmake_policy(VERSION 3.25)

set(ACCELERATE_LIBTORCH_SERIES "2.11")

function(_accelerate_libtorch_version root version)
  set(found "")
  foreach(header torch/headeronly/version.h torch/csrc/api/include/torch/version.h)
    if(EXISTS "${root}/include/${header}" AND NOT found)
      file(STRINGS "${root}/include/${header}" lines REGEX "define TORCH_VERSION_(MAJOR|MINOR|PATCH) [0-9]+")
      string(REGEX REPLACE "[^0-9;]" "" numbers "${lines}")
      list(JOIN numbers "." found)
    endif()
  endforeach()
  if(EXISTS "${root}/include/ATen/ATen.h" AND NOT found)
    set(found "unknown")
  endif()
  set(${version} "${found}" PARENT_SCOPE)
endfunction()

# A LibTorch folder from what Torch_DIR or CMAKE_PREFIX_PATH may say: <root>, <root>/share/cmake, .../share/cmake/Torch.
function(_accelerate_libtorch_root path root)
  set(${root} "" PARENT_SCOPE)
  foreach(up "" "/../.." "/../../..")
    get_filename_component(candidate "${path}${up}" ABSOLUTE)
    _accelerate_libtorch_version("${candidate}" version)
    if(version)
      set(${root} "${candidate}" PARENT_SCOPE)
      return()
    endif()
  endforeach()
endfunction()

# The torch package of a Python, without importing it.
function(_accelerate_python_torch python root)
  set(${root} "" PARENT_SCOPE)
  execute_process(
    COMMAND "${python}" -c
      "import importlib.util as u; s = u.find_spec('torch'); print(s.submodule_search_locations[0] if s and s.submodule_search_locations else '')"
    OUTPUT_VARIABLE path OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET RESULT_VARIABLE status)
  if(status EQUAL 0 AND path AND IS_DIRECTORY "${path}")
    set(${root} "${path}" PARENT_SCOPE)
  endif()
endfunction()

function(accelerate_locate_libtorch root problem)
  cmake_parse_arguments(PARSE_ARGV 2 arg "" "PROJECT_DIR;HINT" "")
  set(${root} "" PARENT_SCOPE)
  set(${problem} "" PARENT_SCOPE)
  set(LibTorch_POINTED FALSE PARENT_SCOPE)
  set(series "${ACCELERATE_LIBTORCH_SERIES}")
  set(remedy "Type `scripts/setup` in the source folder of accelerate.cpp, which installs it into .venv, or pass -DTorch_DIR=<folder of a LibTorch ${series}>.")

  set(asked "")
  if(Torch_DIR)
    list(APPEND asked "${Torch_DIR}")
  endif()
  if(NOT "$ENV{Torch_DIR}" STREQUAL "")
    list(APPEND asked "$ENV{Torch_DIR}")
  endif()
  set(pointed ${asked})
  string(REPLACE ":" ";" prefixes "$ENV{CMAKE_PREFIX_PATH}")
  list(APPEND asked ${CMAKE_PREFIX_PATH} ${prefixes})
  foreach(path IN LISTS asked)
    _accelerate_libtorch_root("${path}" candidate)
    if(candidate)
      set(LibTorch_POINTED TRUE PARENT_SCOPE)
      _accelerate_libtorch_version("${candidate}" version)
      if(version MATCHES "^${series}\\.")
        set(${root} "${candidate}" PARENT_SCOPE)
      else()
        set(${problem} "LibTorch at ${candidate}, named by Torch_DIR or CMAKE_PREFIX_PATH, is version ${version}; version ${series}.x is needed. Point Torch_DIR to a ${series}.x, or unset it and type `scripts/setup`." PARENT_SCOPE)
      endif()
      return()
    elseif(path IN_LIST pointed)
      set(LibTorch_POINTED TRUE PARENT_SCOPE)
      set(${problem} "Torch_DIR is ${path}, and there is no LibTorch there (no include/torch); a LibTorch ${series}.x is needed. ${remedy}" PARENT_SCOPE)
      return()
    endif()
  endforeach()

  set(places "")
  if(arg_HINT)
    list(APPEND places "${arg_HINT}")
  endif()
  find_program(ACCELERATE_ACTIVE_PYTHON NAMES python3 python NO_CACHE)
  if(ACCELERATE_ACTIVE_PYTHON)
    _accelerate_python_torch("${ACCELERATE_ACTIVE_PYTHON}" candidate)
    list(APPEND places ${candidate})
  endif()
  if(arg_PROJECT_DIR)
    file(GLOB candidates "${arg_PROJECT_DIR}/.venv/lib/python3*/site-packages/torch")
    list(APPEND places ${candidates})
  endif()

  set(seen "")
  foreach(candidate IN LISTS places)
    _accelerate_libtorch_version("${candidate}" version)
    if(version MATCHES "^${series}\\." AND EXISTS "${candidate}/lib/libtorch_cpu.so")
      set(${root} "${candidate}" PARENT_SCOPE)
      return()
    elseif(version)
      list(APPEND seen "version ${version} at ${candidate}")
    endif()
  endforeach()
  if(seen)
    list(JOIN seen ", " seen)
  else()
    set(seen "none (Torch_DIR, CMAKE_PREFIX_PATH, the active Python and .venv were searched)")
  endif()
  set(${problem} "LibTorch ${series}.x is needed; found: ${seen}. ${remedy}" PARENT_SCOPE)
endfunction()

if(CMAKE_SCRIPT_MODE_FILE STREQUAL CMAKE_CURRENT_LIST_FILE)
  get_filename_component(project_dir "${CMAKE_CURRENT_LIST_DIR}/.." ABSOLUTE)
  accelerate_locate_libtorch(root problem PROJECT_DIR "${project_dir}")
  if(root)
    set(line "found ${root}")
  elseif(LibTorch_POINTED)
    set(line "wrong ${problem}")
  else()
    set(line "none ${problem}")
  endif()
  execute_process(COMMAND "${CMAKE_COMMAND}" -E echo "${line}")
endif()

# Folders of programs: every source is one program of its name, every folder with a main.cpp is one program of the
# folder's name.

# accelerate_programs(<kind> <libraries>...), in examples/CMakeLists.txt: target <kind>_<name>, program <name>.
function(accelerate_programs kind)
  file(GLOB singles CONFIGURE_DEPENDS *.cpp)
  foreach(source IN LISTS singles)
    get_filename_component(name "${source}" NAME_WE)
    accelerate_program(${kind} ${name} "${source}" "${ARGN}")
  endforeach()
  file(GLOB mains CONFIGURE_DEPENDS */main.cpp)
  foreach(main IN LISTS mains)
    get_filename_component(folder "${main}" DIRECTORY)
    get_filename_component(name "${folder}" NAME)
    file(GLOB sources CONFIGURE_DEPENDS "${folder}/*.cpp")
    accelerate_program(${kind} ${name} "${sources}" "${ARGN}")
  endforeach()
endfunction()

function(accelerate_program kind name sources libraries)
  add_executable(${kind}_${name} ${sources})
  accelerate_compile_like_ours(${kind}_${name})
  target_link_libraries(${kind}_${name} PRIVATE accelerate ${libraries})
  target_compile_definitions(${kind}_${name} PRIVATE ACCELERATE_SOURCE_DIR="${PROJECT_SOURCE_DIR}")
  # A folder of the program's name may exist in the build tree already: the sub-build of that source folder.
  set_target_properties(${kind}_${name} PROPERTIES OUTPUT_NAME ${name})
endfunction()

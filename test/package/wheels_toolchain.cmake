# SPDX-License-Identifier: Apache-2.0
# For CMAKE_PROJECT_INCLUDE: makes the CMake files of the ROS wheels usable where they were not built.
# Their Python targets name the include folder of the machine that they were built on.

function(drop_missing_include_folders)
  get_property(targets DIRECTORY PROPERTY IMPORTED_TARGETS)
  foreach(target ${targets})
    get_target_property(folders ${target} INTERFACE_INCLUDE_DIRECTORIES)
    if(folders)
      list(FILTER folders EXCLUDE REGEX "^/opt/python/")
      set_target_properties(${target} PROPERTIES INTERFACE_INCLUDE_DIRECTORIES "${folders}")
    endif()
  endforeach()
endfunction()

cmake_language(DEFER CALL drop_missing_include_folders)

# SPDX-License-Identifier: MIT
# The CUDA half of geodesic_fast._C, included by CMakeLists.txt when nvcc works.
if(GEODESIC_FAST_CUDA_ARCHS)
  string(REPLACE "," ";" GEODESIC_FAST_CUDA_ARCHS "${GEODESIC_FAST_CUDA_ARCHS}")
  set(CMAKE_CUDA_ARCHITECTURES "${GEODESIC_FAST_CUDA_ARCHS}")
  set(machine_code "")
else()
  # No kernel asks for an architecture, so one intermediate form, compiled once, serves the machine code of all:
  # within 0.1 % the same instructions as with a form for each, in two thirds of the time.
  set(GEODESIC_FAST_CUDA_ARCHS "80;90")
  execute_process(COMMAND "${CMAKE_CUDA_COMPILER}" --list-gpu-arch OUTPUT_VARIABLE known_archs ERROR_QUIET)
  if(known_archs MATCHES "compute_100")
    list(APPEND GEODESIC_FAST_CUDA_ARCHS 100)
  endif()
  set(CMAKE_CUDA_ARCHITECTURES OFF)
  list(TRANSFORM GEODESIC_FAST_CUDA_ARCHS PREPEND "sm_" OUTPUT_VARIABLE machine_code)
  string(REPLACE ";" "," machine_code "${machine_code}")
  set(machine_code "-gencode=arch=compute_80,code=[${machine_code},compute_80]")
endif()
enable_language(CUDA)
if(CMAKE_CUDA_COMPILER_VERSION VERSION_LESS 12.1)
  message(FATAL_ERROR "nvcc ${CMAKE_CUDA_COMPILER_VERSION} is too old, 12.1 is needed (a table of 1024 layers travels as a "
                      "kernel parameter). Update it, or build without CUDA: GEODESIC_FAST_CUDA=0.")
endif()
set(CMAKE_CUDA_STANDARD 17)

file(GLOB cuda_sources CONFIGURE_DEPENDS "${CMAKE_CURRENT_SOURCE_DIR}/cuda/*.cu")
add_library(cuda_kernels OBJECT ${cuda_sources})
target_include_directories(cuda_kernels PRIVATE "${CMAKE_CURRENT_SOURCE_DIR}")
# A spill, a stack frame and static shared memory over an architecture's limit fail the build; what a launch asks
# for beside it is held against four architectures by tests/cuda_on_cpu.
target_compile_options(cuda_kernels PRIVATE ${machine_code} -Xcompiler=-Wall -Xptxas=-warn-spills,-warn-lmem-usage,-Werror
                                            --expt-relaxed-constexpr)
if(CMAKE_CUDA_COMPILER_VERSION VERSION_GREATER_EQUAL 12.8)
  target_compile_options(cuda_kernels PRIVATE --compress-mode=size)
endif()
set_target_properties(cuda_kernels PROPERTIES CUDA_VISIBILITY_PRESET hidden CUDA_RUNTIME_LIBRARY Static)
set_target_properties(_C PROPERTIES CUDA_RUNTIME_LIBRARY Static)
target_link_libraries(_C PRIVATE cuda_kernels)
string(REPLACE ";" "," archs "${GEODESIC_FAST_CUDA_ARCHS}")
foreach(target IN ITEMS _C cuda_kernels)
  target_compile_definitions(${target} PRIVATE GEODESIC_FAST_CUDA_ARCHS="${archs}")
endforeach()

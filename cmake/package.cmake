# `cmake --install`: headers, the static library and a CMake package that brings our FindLibTorch along.

include(CMakePackageConfigHelpers)

set(package_dir "${CMAKE_INSTALL_LIBDIR}/cmake/accelerate")
install(TARGETS accelerate EXPORT accelerateTargets ARCHIVE DESTINATION "${CMAKE_INSTALL_LIBDIR}")
# Not installed; scripts/lint reads this list and checks that no other header includes one of them.
set(private_headers plan.h plan_agreement.h plan_capture.h plan_device.h plan_foreign.h plan_setup.h preparation.h runtime.h runtime_weights.h
  core/kernel.h core/terminal.h
  comm/backends/shm/arguments.h comm/backends/shm/call.h comm/backends/shm/exchange.h comm/backends/shm/fence.h
  comm/backends/shm/peers.h comm/backends/shm/reduce_kernels.h comm/backends/shm/segment.h
  comm/backends/shm/shm_backend.h comm/backends/shm/staged.h
  comm/address.h comm/arrivals.h comm/backend.h comm/connect.h comm/copy.h comm/debug.h comm/group_core.h comm/launched_work.h comm/liveness.h
  comm/liveness_rules.h comm/meeting.h comm/operations.h comm/random_state.h comm/trigger.h
  data/prefetch/host_source.h data/prefetch/pinned_ring.h data/prefetch/prefetch.h data/prefetch/transfer.h
  nn/kernels/cuda.h nn/kernels/device.h nn/kernels/operators.h
  optim/device_counters.h optim/fused_update.h optim/momentum.h optim/move_state.h optim/scaled_gradients.h optim/scheduler_ranks.h optim/schedules/checks.h
  optim/ema_core.h optim/ema_history.h optim/kernels/call.h optim/kernels/cuda.h optim/kernels/device.h optim/kernels/element.h optim/kernels/operators.h
  step/captures/memsets.h
  optim/master_weights.h optim/update.h optim/update_outcomes.h optim/wide_parameters.h
  precision/convert_module.h precision/float32_scope.h
  profile/kineto.h profile/schedule.h profile/trace.h
  strategy/replicated.h strategy/uneven.h strategy/uneven_inputs.h
  strategy/ddp/comm_hook.h strategy/ddp/half_hook.h strategy/ddp/low_rank.h strategy/ddp/low_rank_hook.h
  strategy/ddp/errors.h strategy/ddp/gradient_reducer.h strategy/ddp/reducer_group.h strategy/ddp/same_model.h
  strategy/ddp/side_stream.h
  step/recorder.h step/tape/entry.h step/tape/graphs.h step/tape/outcomes.h step/tape/owned.h step/tape/pool.h step/tape/random.h step/tape/recording.h step/tape/step_node.h step/tape/tape.h
  tensor/copies.h tensor/graph.h tensor/hardware.h tensor/intercept.h tensor/memory_bytes.h tensor/memory_owners.h tensor/out_of_memory.h runtime_memory.h
  cli/command.h cli/nearest.h
  launch/config.h launch/descriptor.h launch/forkable.h launch/forks.h launch/gpus.h launch/launcher.h launch/machine.h launch/output.h launch/port.h
  launch/process.h launch/program.h launch/signals.h)
list(JOIN private_headers "|" private)
install(DIRECTORY accelerate DESTINATION "${CMAKE_INSTALL_INCLUDEDIR}" FILES_MATCHING PATTERN "*.h"
  REGEX "/accelerate/(${private})$" EXCLUDE)
install(EXPORT accelerateTargets NAMESPACE accelerate:: DESTINATION "${package_dir}")

configure_package_config_file(cmake/accelerateConfig.cmake.in "${PROJECT_BINARY_DIR}/accelerateConfig.cmake"
  INSTALL_DESTINATION "${package_dir}")
write_basic_package_version_file("${PROJECT_BINARY_DIR}/accelerateConfigVersion.cmake" COMPATIBILITY SameMinorVersion)
install(FILES
  "${PROJECT_BINARY_DIR}/accelerateConfig.cmake" "${PROJECT_BINARY_DIR}/accelerateConfigVersion.cmake"
  cmake/FindLibTorch.cmake cmake/LibTorchCuda.cmake cmake/LocateLibTorch.cmake
  DESTINATION "${package_dir}")

#include "accelerate/comm/connect.h"

#include <c10/util/Logging.h>

#include "accelerate/comm/group_core.h"
#include "accelerate/comm/meeting.h"
#include "accelerate/core/error.h"

namespace accelerate::internal {
namespace {

template <class T>
c10::intrusive_ptr<T> cast(const HostHandle<T>& handle) {
  return c10::static_intrusive_pointer_cast<T>(handle.object());
}

/// c10d prints a stack trace for every connection that breaks; the error that is thrown then says the same in a line.
/// A level that the user has chosen stays.
void silence_c10d() {
  static const bool done = [] {
    if (!Environment::of_process().text("TORCH_CPP_LOG_LEVEL")) FLAGS_caffe2_log_level = c10::GLOG_FATAL;
    return true;
  }();
  (void)done;
}

}  // namespace

Group connect(const Connection& connection, const Log& log) {
  const World& world = connection.world;
  if (connection.process_group) {
    if (world.size == 1) return Group();
    return Group(std::make_shared<GroupCore>(cast(connection.process_group), log));
  }
  if (world.size == 1) return Group();
  silence_c10d();
  const Meeting meeting = connection.store ? meet(world, cast(connection.store), connection.rendezvous_timeout, log)
                                           : meet(world, connection.rendezvous, connection.rendezvous_timeout, log);
  const int rank = static_cast<int>(world.rank), size = static_cast<int>(world.size);
  const auto liveness = std::make_shared<Liveness>(
      meeting.store->clone(),
      Liveness::Place{
          .rank = rank, .size = size, .serves_store = meeting.serves_store, .store_server = meeting.store_server},
      log, connection.liveness);
  return Group(std::make_shared<GroupCore>(GroupSetup{.store = meeting.store,
                                                      .rank = rank,
                                                      .size = size,
                                                      .device = connection.device,
                                                      .backend = connection.backend,
                                                      .timeout = connection.timeout,
                                                      .one_host = world.local_size == world.size,
                                                      .liveness = liveness,
                                                      .log = log}));
}

World world_of(const ProcessGroupHandle& process_group) {
  const auto group = cast(process_group);
  // The host is not known: ranks count as if they shared one, so that each has a device of its own.
  return {.rank = group->getRank(),
          .size = group->getSize(),
          .local_rank = group->getRank(),
          .local_size = group->getSize()};
}

}  // namespace accelerate::internal

// LibTorch's Gloo over TCP: CPU tensors between any hosts.
#include <torch/csrc/distributed/c10d/ProcessGroupGloo.hpp>

#include "accelerate/comm/backend.h"

namespace accelerate::internal {
namespace {

MadeBackend make(const BackendContext& context) {
  // The interface follows GLOO_SOCKET_IFNAME or the host's name, as in the original.
  const auto options = c10d::ProcessGroupGloo::Options::create_default(context.timeout);
  return {.backend = c10::make_intrusive<c10d::ProcessGroupGloo>(context.store, context.rank, context.size, options)};
}

}  // namespace

BackendEntry backend_gloo() { return {"gloo", 10, c10::kCPU, make}; }

}  // namespace accelerate::internal

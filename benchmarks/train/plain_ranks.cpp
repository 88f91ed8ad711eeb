#include "benchmarks/train/plain_ranks.h"

#include <torch/csrc/distributed/c10d/PrefixStore.hpp>
#include <torch/csrc/distributed/c10d/ProcessGroupGloo.hpp>
#include <torch/csrc/distributed/c10d/TCPStore.hpp>
#include <torch/csrc/distributed/c10d/logger.hpp>
#include <torch/csrc/distributed/c10d/reducer.hpp>

#include <cstdlib>
#include <limits>
#include <string>

namespace benchmark_train {
namespace {

std::string variable(const char* name, const char* otherwise) {
  const char* value = std::getenv(name);
  return value == nullptr ? otherwise : value;
}

c10::intrusive_ptr<c10d::ProcessGroup> connect(int rank, int size, c10::Device device) {
  c10d::TCPStoreOptions store_options;
  store_options.port = static_cast<uint16_t>(std::stoi(variable("MASTER_PORT", "29500")));
  store_options.isServer = rank == 0 && variable("TORCHELASTIC_USE_AGENT_STORE", "False") != "True";
  const auto tcp = c10::make_intrusive<c10d::TCPStore>(variable("MASTER_ADDR", "127.0.0.1"), store_options);
  const auto store = c10::make_intrusive<c10d::PrefixStore>("plain", tcp);
  auto group = c10::make_intrusive<c10d::ProcessGroup>(store, rank, size);
  using Kind = c10d::ProcessGroup::BackendType;
#ifdef BENCHMARK_WITH_CUDA
  if (device.is_cuda()) {
    group->setBackend(c10::kCUDA, Kind::NCCL, plain_nccl(store, rank, size));
    group->setDefaultBackend(Kind::NCCL);
    return group;
  }
#endif
  TORCH_CHECK(device.is_cpu(), "this build has no NCCL");
  const auto options = c10d::ProcessGroupGloo::Options::create_default();
  group->setBackend(c10::kCPU, Kind::GLOO, c10::make_intrusive<c10d::ProcessGroupGloo>(store, rank, size, options));
  group->setDefaultBackend(Kind::GLOO);
  return group;
}

}  // namespace

c10::Device plain_device() {
  if (!torch::cuda::is_available()) return c10::kCPU;
  return {c10::kCUDA, static_cast<c10::DeviceIndex>(std::stoi(variable("LOCAL_RANK", "0")))};
}

struct PlainRanks::Connected {
  c10::intrusive_ptr<c10d::ProcessGroup> group;
  std::shared_ptr<c10d::Reducer> reducer;
  std::shared_ptr<c10d::Logger> logger;
};

PlainRanks::PlainRanks(const std::vector<at::Tensor>& parameters)
    : rank_(std::stoi(variable("RANK", "0"))), size_(std::stoi(variable("WORLD_SIZE", "1"))) {
  if (size_ == 1) return;
  connected_ = std::make_unique<Connected>();
  connected_->group = connect(static_cast<int>(rank_), static_cast<int>(size_), parameters.front().device());
  std::vector<at::Tensor> values;
  for (const at::Tensor& parameter : parameters) values.push_back(parameter.detach());
  c10d::broadcast_coalesced(connected_->group, values, 250 << 20);
  const std::vector<bool> sparse(parameters.size(), false);
  auto buckets =
      std::get<0>(c10d::compute_bucket_assignment_by_size(parameters, {std::numeric_limits<size_t>::max()}, sparse));
  connected_->reducer = std::make_shared<c10d::Reducer>(
      parameters, buckets, connected_->group, sparse, /*bucket_bytes_cap=*/c10d::kDefaultBucketBytesCap,
      /*find_unused_parameters=*/false, /*gradient_as_bucket_view=*/false,
      /*param_names=*/std::unordered_map<size_t, std::string>{},
      /*first_bucket_bytes_cap=*/c10d::kDefaultFirstBucketBytes, /*skip_all_reduce_unused_params=*/false,
      /*use_python_reducer=*/false, /*bucket_bytes_cap_list=*/std::vector<int64_t>{});
  connected_->logger = std::make_shared<c10d::Logger>(connected_->reducer);
  connected_->reducer->set_logger(connected_->logger);
}

PlainRanks::~PlainRanks() {
  if (connected_ == nullptr) return;
  connected_->group->barrier()->wait();  // rank 0 serves the store until the others have done
}

void PlainRanks::backward(const at::Tensor& loss) {
  if (connected_ == nullptr) return loss.backward();
  connected_->reducer->rebuild_buckets();
  connected_->reducer->prepare_for_backward({});
  loss.backward();
}

}  // namespace benchmark_train

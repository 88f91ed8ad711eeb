// What the bucket options do to what travels: seen by a process group that the host program brings.
#include <mutex>

#include "accelerate/comm/connect.h"
#include "accelerate/comm/group_core.h"
#include "tests/ranks/ddp_support.h"

namespace {

using ddp::Accelerator;
using ddp::Ddp;
using ddp::Rank;

/// Notes how large its all-reduces are.
class NotingGroup final : public c10d::ProcessGroup {
 public:
  explicit NotingGroup(const c10::intrusive_ptr<c10d::ProcessGroup>& inner)
      : ProcessGroup(inner->getStore(), inner->getRank(), inner->getSize()) {
    setBackend(at::kCPU, BackendType::CUSTOM, inner->getBackend(at::kCPU));
    setDefaultBackend(BackendType::CUSTOM);
    setGroupName("noting");
  }
  c10::intrusive_ptr<c10d::Work> allreduce(std::vector<at::Tensor>& tensors,
                                           const c10d::AllreduceOptions& options) override {
    sizes.push_back(tensors.front().numel());
    return ProcessGroup::allreduce(tensors, options);
  }
  std::vector<int64_t> sizes;
};

constexpr int64_t kSixMiB = 6 * 1024 * 1024 / 4;  // numbers of float32

/// Four weights of 6 MiB each and one that its forward does not use.
struct WideImpl : torch::nn::Module {
  WideImpl() {
    for (int i = 0; i < 4; ++i) {
      used.push_back(register_parameter("used" + std::to_string(i), torch::full({kSixMiB}, 0.1 * i)));
    }
    unused = register_parameter("unused", torch::zeros({3}));
  }
  at::Tensor forward() {
    at::Tensor sum = torch::zeros({});
    for (const at::Tensor& weight : used) sum = sum + weight.pow(2).mean();
    return sum;
  }
  std::vector<at::Tensor> used;
  at::Tensor unused;
};
TORCH_MODULE(Wide);

std::vector<int64_t> sizes_with(const Rank& rank, const Ddp& options) {
  const accelerate::AcceleratorOptions given = rank.options();
  constexpr std::chrono::seconds kPatience{60};
  const accelerate::Group own = accelerate::internal::connect(
      {.world = *given.world, .store = given.store, .timeout = kPatience, .rendezvous_timeout = kPatience},
      accelerate::Log({}, rank.rank()));
  auto noting = c10::make_intrusive<NotingGroup>(own.core()->process_group());
  Accelerator accelerator({.strategy = options, .cpu = true, .process_group = noting});
  auto model = accelerator.prepare(Wide());
  noting->sizes.clear();
  accelerator.backward(model());
  EXPECT_FALSE(model->unused.grad().defined() && model->unused.grad().ne(0).any().item<bool>());
  std::vector<int64_t> gradients;
  for (const int64_t size : noting->sizes) {
    if (size >= kSixMiB) gradients.push_back(size / kSixMiB);
  }
  return gradients;
}

// A check of the original: the argument object's values are what the model is wrapped with. Buckets are filled
// from the first parameter on, that of the first one up to 1 MiB where no size was chosen, and travel last to first.
TEST(BucketSize, AndTheSearchForUnusedParametersReachTheReducer) {
  ddp::on_ranks(2, [](const Rank& rank) {
    EXPECT_EQ(sizes_with(rank, {.bucket_cap_mb = 15, .find_unused_parameters = true}), (std::vector<int64_t>{1, 3}));
  });
  ddp::on_ranks(2, [](const Rank& rank) {
    EXPECT_EQ(sizes_with(rank, {.find_unused_parameters = true}), (std::vector<int64_t>{3, 1}));
  });
  ddp::on_ranks(2, [](const Rank& rank) {
    EXPECT_THROW(sizes_with(rank, {.bucket_cap_mb = 15}), accelerate::UsageError) << "a parameter is not used";
  });
}

}  // namespace

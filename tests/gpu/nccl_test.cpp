// NCCL between two GPUs: each collective, dtype and size, several ranks' training, and ranks that leave.
#include <map>
#include <mutex>

#include "tests/gpu/ranks.h"
#include "tests/support/throws_error.h"
#include "tests/unit/training.h"

namespace {

using accelerate::Accelerator;
using accelerate::CommError;
using accelerate::ConfigError;
using accelerate::Group;
using accelerate::ReduceOp;
using accelerate::testing::Rank;
using accelerate::testing::run_ranks;

constexpr int64_t kRanks = 2;
const std::vector<at::ScalarType> kDtypes{at::kFloat, at::kDouble, at::kHalf, at::kBFloat16,
                                          at::kLong,  at::kInt,    at::kChar, at::kByte};
const std::vector<int64_t> kSizes{0, 1, 7, 1'000'003};

class Nccl : public gpu::TwoGpus {};

/// What `rank` contributes: small whole numbers, exact in every dtype, other ones on every rank.
at::Tensor share(int64_t rank, int64_t size, at::ScalarType dtype) {
  return (torch::arange(size) % 5 + rank + 1).to(dtype);
}

at::Tensor combined(ReduceOp op, int64_t size, at::ScalarType dtype) {
  at::Tensor all = share(0, size, torch::kDouble);
  for (int64_t rank = 1; rank < kRanks; ++rank) {
    const at::Tensor next = share(rank, size, torch::kDouble);
    all = op == ReduceOp::kMin       ? at::minimum(all, next)
          : op == ReduceOp::kMax     ? at::maximum(all, next)
          : op == ReduceOp::kProduct ? all * next
                                     : all + next;
  }
  return (op == ReduceOp::kMean ? all / kRanks : all).to(dtype);
}

TEST_F(Nccl, AllReduceOfEveryOperationDtypeAndSize) {
  run_ranks(kRanks, [](const Rank& rank) {
    const c10::Device device = gpu::device_of(rank);
    const Group group = gpu::connect(rank, device);
    for (const auto op : {ReduceOp::kSum, ReduceOp::kMin, ReduceOp::kMax, ReduceOp::kProduct, ReduceOp::kMean}) {
      for (const auto dtype : kDtypes) {
        if (op == ReduceOp::kMean && !at::isFloatingType(dtype)) continue;
        for (const int64_t size : kSizes) {
          const at::Tensor tensor = share(rank.rank(), size, dtype).to(device);
          group.all_reduce(tensor, op).wait();
          EXPECT_TRUE(torch::equal(tensor.cpu(), combined(op, size, dtype)))
              << "operation " << static_cast<int>(op) << ", " << dtype << ", " << size << " elements";
        }
      }
    }
  });
}

TEST_F(Nccl, BroadcastAndAllGatherOfEveryDtypeAndSize) {
  run_ranks(kRanks, [](const Rank& rank) {
    const c10::Device device = gpu::device_of(rank);
    const Group group = gpu::connect(rank, device);
    std::vector<at::ScalarType> dtypes = kDtypes;
    dtypes.push_back(at::kBool);
    for (const auto dtype : dtypes) {
      for (const int64_t size : kSizes) {
        for (int64_t root = 0; root < kRanks; ++root) {
          const at::Tensor tensor = share(rank.rank(), size, dtype).to(device);
          group.broadcast(tensor, root).wait();
          EXPECT_TRUE(torch::equal(tensor.cpu(), share(root, size, dtype))) << dtype << ", " << size << " elements";
        }
        const at::Tensor all = group.all_gather(share(rank.rank(), size, dtype).to(device));
        EXPECT_EQ(all.device(), device);
        EXPECT_TRUE(torch::equal(all.cpu(), torch::cat({share(0, size, dtype), share(1, size, dtype)})))
            << dtype << ", " << size << " elements";
      }
    }
  });
}

TEST_F(Nccl, WorkInFlightAndTensorsOfTheHostBesideThoseOfTheDevice) {
  run_ranks(kRanks, [](const Rank& rank) {
    const c10::Device device = gpu::device_of(rank);
    const Group group = gpu::connect(rank, device);
    std::vector<at::Tensor> tensors;
    std::vector<accelerate::Work> under_way;
    for (int i = 0; i < 20; ++i) {
      tensors.push_back(torch::full({1000 + i}, rank.rank() + i, i % 2 == 0 ? device : c10::Device(c10::kCPU)));
      under_way.push_back(group.all_reduce(tensors.back()));
    }
    group.barrier();
    for (int i = 0; i < 20; ++i) {
      under_way[i].wait();
      EXPECT_TRUE(tensors[i].eq(2 * i + 1).all().item<bool>()) << i;
    }
  });
}

TEST_F(Nccl, APartOfTheRanksIsAGroup) {
  run_ranks(kRanks, [](const Rank& rank) {
    const c10::Device device = gpu::device_of(rank);
    const Group group = gpu::connect(rank, device);
    const Group alone = group.split(rank.rank());
    EXPECT_EQ(alone.size(), 1);
    const Group both = group.split(0);
    const at::Tensor ones = torch::ones({5}, device);
    both.all_reduce(ones).wait();
    EXPECT_TRUE(ones.eq(2).all().item<bool>());
  });
}

TEST_F(Nccl, TrainingInTwoProcessesIsTrainingInOneOnTheWholeBatch) {
  constexpr int kSteps = 12;
  const auto step = [](Accelerator& accelerator, auto& model, auto& optimizer, at::Tensor x, at::Tensor y) {
    auto window = accelerator.accumulate(model);
    accelerator.backward(training::mse(model(x.to(accelerator.device())), y.to(accelerator.device())));
    accelerator.clip_grad_norm_(model, {.max_norm = 0.5});
    optimizer.step();
    optimizer.zero_grad();
  };
  // Built before the threads start: the generator of weights is the process's.
  std::vector<training::Mlp> nets;
  for (int64_t rank = 0; rank <= kRanks; ++rank) nets.emplace_back(1);
  std::vector<training::Batch> batches;
  for (int i = 0; i < kSteps; ++i) batches.push_back(training::make_batch(8, static_cast<uint64_t>(i)));

  run_ranks(kRanks, [&](const Rank& rank) {
    Accelerator accelerator(rank.options({.gradient_accumulation_steps = 2}));
    EXPECT_EQ(accelerator.device(), gpu::device_of(rank));
    torch::optim::AdamW adamw(nets[rank.rank()]->parameters(), 1e-2);
    auto [model, optimizer] = accelerator.prepare(nets[rank.rank()], adamw);
    for (const auto& [x, y] : batches) {
      step(accelerator, model, optimizer, x.slice(0, 4 * rank.rank(), 4 * rank.rank() + 4),
           y.slice(0, 4 * rank.rank(), 4 * rank.rank() + 4));
    }
  });

  Accelerator accelerator({.gradient_accumulation_steps = 2});
  torch::optim::AdamW adamw(nets[kRanks]->parameters(), 1e-2);
  auto [model, optimizer] = accelerator.prepare(nets[kRanks], adamw);
  for (const auto& [x, y] : batches) step(accelerator, model, optimizer, x, y);
  const auto on_cpu = [](const training::Mlp& net) {
    std::vector<at::Tensor> tensors;
    for (const at::Tensor& parameter : net->parameters()) tensors.push_back(parameter.detach().cpu());
    return tensors;
  };
  EXPECT_TRUE(training::equal(on_cpu(nets[0]), on_cpu(nets[1]))) << "bit for bit";
  EXPECT_LT(training::distance(on_cpu(nets[0]), on_cpu(nets[kRanks])), 1e-11);
}

/// Collectives until one throws; each is waited for on the host, which the device holds up.
void until_it_throws(const Group& group, c10::Device device) {
  for (int i = 0; i < 1000; ++i) {
    const at::Tensor tensor = torch::ones({10}, device);
    group.all_reduce(tensor).wait();
    tensor.sum().item<double>();
  }
}

TEST_F(Nccl, ARankThatLeavesInTheMiddleIsNamedByTheOthers) {
  std::string said;
  run_ranks(kRanks, [&](const Rank& rank) {
    const c10::Device device = gpu::device_of(rank);
    const Group group = gpu::connect(rank, device);
    const at::Tensor tensor = torch::ones({10}, device);
    group.all_reduce(tensor).wait();
    if (rank.rank() == 1) return;  // its group goes, and with it the heartbeat
    try {
      until_it_throws(group, device);
    } catch (const CommError& error) {
      said = error.what();
    }
  });
  EXPECT_THAT(said, testing::HasSubstr("Rank 1"));
  EXPECT_THAT(said, testing::HasSubstr("all_reduce"));
}

/// What one has started and the other has not would keep the first from ever saying goodbye.
TEST_F(Nccl, AnExceptionOnOneRankOrOnBothLeavesNobodyWaiting) {
  for (const bool on_both : {false, true}) {
    const auto train = [&](const Rank& rank) {
      const c10::Device device = gpu::device_of(rank);
      const Group group = gpu::connect(rank, device);
      const at::Tensor tensor = torch::ones({4}, device);
      group.all_reduce(tensor).wait();
      EXPECT_EQ(tensor.sum().item<double>(), 8);
      accelerate::Work nobody_waits_for_it;
      if (rank.rank() == 0) nobody_waits_for_it = group.all_reduce(tensor);
      if (rank.rank() == 1 || on_both) throw std::runtime_error("rank " + std::to_string(rank.rank()));
    };
    EXPECT_THROW(run_ranks(kRanks, train), std::runtime_error);
  }
}

class OneGpuForTwoRanks : public gpu::OneGpu {};

TEST_F(OneGpuForTwoRanks, IsRefusedOnEachNamingBoth) {
  std::mutex mutex;
  std::map<int64_t, std::string> said;
  run_ranks(kRanks, [&](const Rank& rank) {
    try {
      gpu::connect(rank, c10::Device(c10::kCUDA, 0));
    } catch (const ConfigError& error) {
      const std::lock_guard lock(mutex);
      said[rank.rank()] = error.what();
    }
  });
  ASSERT_EQ(said.size(), 2u);
  for (const auto& [rank, text] : said) EXPECT_THAT(text, testing::HasSubstr("ranks 0 and 1 have one GPU")) << rank;
}

}  // namespace

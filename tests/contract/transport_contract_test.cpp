// What every transport between CPU ranks promises: the collectives that the library uses, over dtypes and sizes, as
// ranks that are threads of one process.
#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <sstream>
#include <thread>
#include <torch/csrc/distributed/c10d/Backend.hpp>
#include <torch/csrc/distributed/c10d/HashStore.hpp>
#include <torch/csrc/distributed/c10d/PrefixStore.hpp>

#include "accelerate/comm/backend.h"

namespace accelerate::internal {

/// How GoogleTest names the tests of a transport.
static void PrintTo(const BackendEntry& entry, std::ostream* out) { *out << entry.name; }

namespace {

using Tensors = std::vector<at::Tensor>;

constexpr at::ScalarType kDtypes[] = {at::kFloat, at::kDouble, at::kHalf, at::kBFloat16,
                                      at::kLong,  at::kInt,    at::kChar, at::kByte};
constexpr int64_t kSizes[] = {0, 1, 7, 1000, 300'001};

std::vector<BackendEntry> transports() {
  std::vector<BackendEntry> entries = builtin_backends();
  std::erase_if(entries, [](const BackendEntry& entry) { return entry.device_type != c10::kCPU; });
  return entries;
}

class TransportContract : public ::testing::TestWithParam<BackendEntry> {
 protected:
  using Function = std::function<std::string(c10d::Backend& backend, int rank)>;

  // What `function` found wrong on any of `ranks` ranks.
  std::string run(int ranks, const Function& function) {
    const auto store = c10::make_intrusive<c10d::HashStore>();
    std::vector<std::string> texts(ranks);
    std::vector<std::thread> threads;
    for (int rank = 0; rank < ranks; ++rank) {
      threads.emplace_back([&, rank] {
        try {
          const MadeBackend made = GetParam().make({.store = c10::make_intrusive<c10d::PrefixStore>("contract", store),
                                                    .rank = rank,
                                                    .size = ranks,
                                                    .timeout = std::chrono::seconds(60),
                                                    .device = c10::Device(c10::kCPU),
                                                    .group = "contract"});
          texts[rank] = made.backend ? function(*made.backend, rank) : "refused: " + made.refusal;
          if (made.backend) made.backend->barrier()->wait();  // nobody leaves while another still reads
        } catch (const std::exception& error) {
          texts[rank] = error.what();
        }
      });
    }
    for (std::thread& thread : threads) thread.join();
    std::string all;
    for (const std::string& text : texts) all += text;
    return all;
  }
};
INSTANTIATE_TEST_SUITE_P(Transports, TransportContract, ::testing::ValuesIn(transports()),
                         [](const auto& info) { return info.param.name; });

// Small integers: sums and products of them are exact in every dtype and order.
at::Tensor numbers(int rank, int64_t elements, at::ScalarType dtype) {
  return (at::arange(elements, at::kLong) + 2 * rank).remainder(4).add(1).to(dtype);
}

std::string compare(const char* operation, const at::Tensor& got, const at::Tensor& expected) {
  if (got.scalar_type() == expected.scalar_type() && at::equal(got, expected)) return {};
  std::ostringstream text;
  text << operation << " of " << expected.numel() << " " << expected.scalar_type() << " is wrong; ";
  return text.str();
}

std::string check_reductions(c10d::Backend& backend, int rank, int64_t elements, at::ScalarType dtype) {
  at::Tensor sum, product, least, most;
  for (int i = 0; i < backend.getSize(); ++i) {
    const at::Tensor next = numbers(i, elements, at::kLong);
    sum = i == 0 ? next : sum + next;
    product = i == 0 ? next : product * next;
    least = i == 0 ? next : at::minimum(least, next);
    most = i == 0 ? next : at::maximum(most, next);
  }
  const auto reduced = [&](c10d::ReduceOp::RedOpType reduction) {
    Tensors tensors{numbers(rank, elements, dtype)};
    const auto work = backend.allreduce(tensors, {.reduceOp = reduction});
    work->wait();
    return tensors[0];
  };
  return compare("sum", reduced(c10d::ReduceOp::SUM), sum.to(dtype)) +
         compare("product", reduced(c10d::ReduceOp::PRODUCT), product.to(dtype)) +
         compare("min", reduced(c10d::ReduceOp::MIN), least.to(dtype)) +
         compare("max", reduced(c10d::ReduceOp::MAX), most.to(dtype));
}

TEST_P(TransportContract, AllReduce) {
  for (const int ranks : {2, 3}) {
    EXPECT_EQ(run(ranks,
                  [](c10d::Backend& backend, int rank) {
                    std::string text;
                    for (const at::ScalarType dtype : kDtypes) {
                      for (const int64_t elements : kSizes) text += check_reductions(backend, rank, elements, dtype);
                    }
                    return text;
                  }),
              "");
  }
}

TEST_P(TransportContract, BroadcastFromAnyRank) {
  EXPECT_EQ(run(3,
                [](c10d::Backend& backend, int rank) {
                  std::string text;
                  for (const at::ScalarType dtype : kDtypes) {
                    for (const int64_t elements : kSizes) {
                      const int root = static_cast<int>(elements % 3);
                      Tensors tensors{numbers(rank, elements, dtype)};
                      backend.broadcast(tensors, {.rootRank = root})->wait();
                      text += compare("broadcast", tensors[0], numbers(root, elements, dtype));
                    }
                  }
                  return text;
                }),
            "");
}

TEST_P(TransportContract, AllGatherInTheOrderOfTheRanks) {
  EXPECT_EQ(run(3,
                [](c10d::Backend& backend, int rank) {
                  std::string text;
                  for (const at::ScalarType dtype : kDtypes) {
                    for (const int64_t elements : kSizes) {
                      Tensors inputs{numbers(rank, elements, dtype)};
                      std::vector<Tensors> outputs(1);
                      for (int i = 0; i < 3; ++i) outputs[0].push_back(at::zeros({elements}, dtype));
                      backend.allgather(outputs, inputs)->wait();
                      at::Tensor flat = at::zeros({3 * elements}, dtype);
                      backend._allgather_base(flat, inputs[0])->wait();
                      for (int i = 0; i < 3; ++i) {
                        const at::Tensor expected = numbers(i, elements, dtype);
                        text += compare("all_gather", outputs[0][i], expected);
                        text += compare("all_gather_into_tensor", flat.narrow(0, i * elements, elements), expected);
                      }
                    }
                  }
                  return text;
                }),
            "");
}

// A reducer goes on from the future of a call, with the list of its tensors.
TEST_P(TransportContract, TheFutureOfAnAllReduceHoldsTheTensors) {
  EXPECT_EQ(run(2,
                [](c10d::Backend& backend, int rank) -> std::string {
                  Tensors tensors{numbers(rank, 5, at::kFloat)};
                  const auto work = backend.allreduce(tensors);
                  const auto future = work->getFuture();
                  future->wait();
                  if (future->hasError()) return "the future failed";
                  const Tensors held = future->value().toTensorVector();
                  if (held.size() != 1 || !held[0].is_same(tensors[0])) return "the future holds something else";
                  return compare("sum", tensors[0], numbers(0, 5, at::kFloat) + numbers(1, 5, at::kFloat));
                }),
            "");
}

}  // namespace
}  // namespace accelerate::internal

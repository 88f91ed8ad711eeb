// Every collective of the shared-memory transport against a straightforward reference, over dtypes, reductions, sizes,
// layouts, roots and numbers of ranks, with ranks as threads and as processes.
#include <ATen/CPUGeneratorImpl.h>
#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include <sstream>

#include "tests/ranks/shm_case.h"
#include "tests/ranks/shm_ranks.h"

namespace accelerate::ranks_test {
namespace {

using c10d::OpType;
using c10d::ReduceOp;

constexpr OpType kOperations[] = {
    OpType::ALLREDUCE, OpType::ALLREDUCE_COALESCED, OpType::REDUCE,          OpType::BROADCAST,
    OpType::ALLGATHER, OpType::ALLGATHER_COALESCED, OpType::_ALLGATHER_BASE, OpType::GATHER,
    OpType::SCATTER,   OpType::REDUCE_SCATTER,      OpType::ALLTOALL,        OpType::ALLTOALL_BASE,
    OpType::BARRIER,   OpType::_REDUCE_SCATTER_BASE};
constexpr ReduceOp::RedOpType kReductions[] = {ReduceOp::SUM, ReduceOp::AVG,  ReduceOp::PRODUCT, ReduceOp::MIN,
                                               ReduceOp::MAX, ReduceOp::BAND, ReduceOp::BOR,     ReduceOp::BXOR};
constexpr at::ScalarType kDtypes[] = {
    at::kFloat,  at::kDouble, at::kHalf,   at::kBFloat16,      at::kComplexFloat, at::kComplexDouble,
    at::kBool,   at::kByte,   at::kChar,   at::kShort,         at::kInt,          at::kLong,
    at::kUInt16, at::kUInt32, at::kUInt64, at::kFloat8_e4m3fn, at::kFloat8_e5m2};

template <class T, size_t n>
rc::Gen<T> one_of(const T (&values)[n]) {
  return rc::gen::elementOf(std::vector<T>(values, values + n));
}

// Nothing, one, few, odd, either side of the one-fence path (8 KB) and of a buffer (512 KB), several buffers.
rc::Gen<int64_t> sizes(int64_t longest) {
  return rc::gen::oneOf(rc::gen::element<int64_t>(0, 1, 2, 3, 7), rc::gen::inRange<int64_t>(0, 300),
                        rc::gen::element<int64_t>(1023, 1024, 2047, 2048, 2049, 4096, 8191, 8192, 8193),
                        rc::gen::inRange<int64_t>(0, longest));
}

Case any_case(int ranks, int64_t longest) {
  Case test;
  test.operation = *one_of(kOperations);
  test.dtype = *one_of(kDtypes);
  test.reduction = *one_of(kReductions);
  if (!promised(test.dtype, test.reduction)) test.reduction = ReduceOp::SUM;
  if (!promised(test.dtype, test.reduction) && is_reduction(test.operation)) test.operation = OpType::BROADCAST;
  test.elements = *sizes(longest);
  test.root = *rc::gen::inRange(0, ranks);
  test.shape = *rc::gen::element(Shape::kPlain, Shape::kTransposed, Shape::kEverySecond, Shape::kOffset);
  test.seed = *rc::gen::inRange<int64_t>(0, 1'000'000);
  return test;
}

std::vector<Case> any_cases(int ranks, int count, int64_t longest) {
  std::vector<Case> cases;
  for (int i = 0; i < count; ++i) cases.push_back(any_case(ranks, longest));
  return cases;
}

RankFunction check_all(const std::vector<Case>& cases) {
  return [&cases](c10d::Backend& backend, int rank) -> std::string {
    for (const Case& test : cases) {
      const std::string text = check_case(backend, rank, test);
      if (!text.empty()) return text;
    }
    return {};
  };
}

RC_GTEST_PROP(ShmCollectives, AgreeWithTheReferenceBetweenThreads, ()) {
  const int ranks = *rc::gen::inRange(1, 9);
  const std::vector<Case> cases = any_cases(ranks, 8, 20'000);
  for (const std::string& text : run_threads(ranks, check_all(cases))) RC_ASSERT(text == "");
}

// Every pair of operation and dtype, and every reduction of it, once: no cell is left to chance.
class EveryOperation : public ::testing::TestWithParam<OpType> {};
INSTANTIATE_TEST_SUITE_P(ShmCollectives, EveryOperation, ::testing::ValuesIn(kOperations),
                         [](const auto& info) { return c10d::opTypeToString(info.param); });

TEST_P(EveryOperation, OfEveryDtypeAndReductionBetweenThreeProcesses) {
  std::vector<Case> cases;
  for (const at::ScalarType dtype : kDtypes) {
    for (const ReduceOp::RedOpType reduction : kReductions) {
      const bool reduces = is_reduction(GetParam());
      if (reduces ? !promised(dtype, reduction) : reduction != ReduceOp::SUM) continue;
      for (const int64_t elements : {0, 1, 37, 5001}) {
        cases.push_back(
            {GetParam(), reduction, dtype, elements, static_cast<int>(elements % 3), Shape::kPlain, elements});
      }
    }
  }
  for (const Ended& ended : run_processes(3, check_all(cases))) EXPECT_EQ(ended.text, "");
}

TEST_P(EveryOperation, OfTensorsThatTakeManyBuffers) {
  std::vector<Case> cases;
  for (const int64_t elements : {131'073, 700'000}) {  // a buffer and a little, more than a rank has buffers
    for (const Shape shape : {Shape::kPlain, Shape::kTransposed}) {
      cases.push_back({GetParam(), ReduceOp::SUM, at::kFloat, elements, 1, shape, elements});
    }
  }
  for (const int ranks : {2, 5}) {
    for (const Ended& ended : run_processes(ranks, check_all(cases))) EXPECT_EQ(ended.text, "") << ranks;
  }
}

TEST(ShmCollectives, AThousandSmallCallsInAnyOrderBetweenFourProcesses) {
  const auto any = rc::gen::exec([] { return any_cases(4, 1000, 600); });
  const std::vector<Case> cases = any(rc::Random(2026), 100).value();
  for (const Ended& ended : run_processes(4, check_all(cases))) EXPECT_EQ(ended.text, "");
}

TEST(ShmCollectives, SixteenThreadsAndSixteenProcesses) {
  std::vector<Case> cases;
  for (const OpType operation : kOperations) {
    for (const int64_t elements : {5, 3000, 40'000}) {
      cases.push_back({operation, ReduceOp::SUM, at::kFloat, elements, 11, Shape::kPlain, elements});
    }
  }
  for (const std::string& text : run_threads(16, check_all(cases))) EXPECT_EQ(text, "");
  for (const Ended& ended : run_processes(16, check_all(cases))) EXPECT_EQ(ended.text, "");
}

// Sums of floats depend on the order: all ranks have the same bits, and the same again in the next run.
TEST(ShmCollectives, SumsHaveTheSameBitsOnEveryRankAndEveryTime) {
  for (const int64_t elements : {100, 100'000}) {
    const auto sum = [elements](c10d::Backend& backend, int rank) {
      auto generator = at::detail::createCPUGenerator(rank);
      std::vector<at::Tensor> tensors{at::randn({elements}, generator) * std::pow(10.0, rank)};
      backend.allreduce(tensors)->wait();
      const auto* bytes = static_cast<const char*>(tensors[0].const_data_ptr());
      return std::to_string(std::hash<std::string_view>{}({bytes, tensors[0].nbytes()}));
    };
    const auto first = run_threads(5, sum), second = run_threads(5, sum);
    for (const std::string& hash : first) EXPECT_EQ(hash, first[0]);
    EXPECT_EQ(first, second);
  }
}

// Groups do not share anything, whatever order their calls come in.
TEST(ShmCollectives, TwoGroupsAtOnce) {
  const auto make = [](c10d::Backend& outer, int rank) -> std::string {
    std::vector<at::Tensor> outer_sum{at::full({10}, rank)};
    std::string inner_text;
    const auto inner = run_threads(2, [&](c10d::Backend& inner, int inner_rank) -> std::string {
      for (int i = 0; i < 50; ++i) {
        const auto text = check_case(inner, inner_rank, {.elements = 1000 + i, .seed = i});
        if (!text.empty()) return text;
      }
      return {};
    });
    outer.allreduce(outer_sum)->wait();
    for (const std::string& text : inner) inner_text += text;
    if (!inner_text.empty()) return inner_text;
    return outer_sum[0].eq(3).all().item<bool>() ? "" : "the outer sum is wrong";
  };
  for (const Ended& ended : run_processes(3, make)) EXPECT_EQ(ended.text, "");
}

}  // namespace
}  // namespace accelerate::ranks_test

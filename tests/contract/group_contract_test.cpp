// What a group of ranks promises; the group of one is the only one so far, and its collectives are identities.
#include <ATen/ATen.h>
#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include <limits>

#include "accelerate/comm/group.h"
#include "tests/support/tensors.h"

namespace accelerate {
namespace {

using support::same_bytes;

const std::vector<at::ScalarType>& dtypes() {
  static const std::vector<at::ScalarType> all{at::kFloat, at::kDouble, at::kHalf, at::kBFloat16, at::kLong,
                                               at::kInt,   at::kShort,  at::kChar, at::kByte,     at::kBool};
  return all;
}

at::Tensor any_tensor() {
  const auto rank = *rc::gen::inRange<size_t>(0, 4);
  const auto shape = *rc::gen::container<std::vector<int64_t>>(rank, rc::gen::inRange<int64_t>(0, 6));
  return at::randint(100, shape, at::TensorOptions(at::kLong)).to(*rc::gen::elementOf(dtypes()));
}

TEST(GroupOfOne, KnowsItsPlace) {
  const Group group;
  EXPECT_EQ(group.size(), 1);
  EXPECT_EQ(group.rank(), 0);
}

RC_GTEST_PROP(GroupOfOne, AllReduceLeavesTheValueAndTheTensor, ()) {
  const Group group;
  at::Tensor tensor = any_tensor();
  const at::Tensor before = tensor.clone();
  const auto* impl = tensor.unsafeGetTensorImpl();
  group.all_reduce(tensor, *rc::gen::element(ReduceOp::kSum, ReduceOp::kMean, ReduceOp::kMax)).wait();
  RC_ASSERT(tensor.unsafeGetTensorImpl() == impl);
  RC_ASSERT(static_cast<bool>(same_bytes(tensor, before)));
}

RC_GTEST_PROP(GroupOfOne, AllGatherHasTheRanksRowsInOrder, ()) {
  const Group group;
  const at::Tensor tensor = any_tensor();
  const at::Tensor all = group.all_gather(tensor);
  if (tensor.dim() > 0) RC_ASSERT(all.size(0) == tensor.size(0) * group.size());
  RC_ASSERT(static_cast<bool>(same_bytes(all, tensor)));
}

TEST(GroupOfOne, CollectivesCostNoCopy) {
  const Group group;
  at::Tensor tensor = at::ones({7, 3});
  EXPECT_TRUE(group.all_gather(tensor).is_same(tensor));
  const void* data = tensor.data_ptr();
  group.all_reduce(tensor, ReduceOp::kMean).wait();
  EXPECT_EQ(tensor.data_ptr(), data);
}

TEST(GroupOfOne, SpecialNumbersAndLayoutsPassThrough) {
  const Group group;
  const float infinity = std::numeric_limits<float>::infinity();
  at::Tensor tensor =
      at::tensor({infinity, -infinity, std::numeric_limits<float>::quiet_NaN(), -0.0F}).view({2, 2}).t();
  const at::Tensor before = tensor.clone();
  const auto strides = tensor.strides().vec();
  group.all_reduce(tensor, ReduceOp::kSum).wait();
  EXPECT_TRUE(same_bytes(tensor, before));
  EXPECT_EQ(tensor.strides().vec(), strides);
  EXPECT_TRUE(same_bytes(group.all_gather(tensor), before));
}

TEST(GroupOfOne, GradientsFlowThroughAllGather) {
  const Group group;
  const at::Tensor x = at::ones({3}).set_requires_grad(true);
  EXPECT_TRUE(group.all_gather(x * 2).requires_grad());
}

TEST(GroupOfOne, IsAValueAndTheBarrierReturns) {
  const Group group;
  const Group copy = group;
  copy.barrier();
  EXPECT_EQ(copy.size(), group.size());
  EXPECT_EQ(copy.rank(), group.rank());
}

}  // namespace
}  // namespace accelerate

// TF32 changes the numbers of a product, and only while it is allowed.
#include "tests/gpu/gpu.h"

namespace {

using accelerate::Accelerator;

class Float32OnGpu : public gpu::OneGpu {};

/// The largest error of a product against float64, over numbers that ten bits cannot hold.
double error_of_product() {
  torch::manual_seed(2);
  const at::Tensor a = torch::rand({512, 512}, torch::kCUDA), b = torch::rand({512, 512}, torch::kCUDA);
  return (torch::mm(a, b).to(torch::kDouble) - torch::mm(a.to(torch::kDouble), b.to(torch::kDouble)))
      .abs()
      .max()
      .item<double>();
}

TEST_F(Float32OnGpu, ProductsAreInTf32WhileItIsAllowed) {
  const double exact = error_of_product();
  double high = 0, allowed = 0;
  {
    const Accelerator accelerator({.float32 = {.matmul_precision = "high"}});
    high = error_of_product();
  }
  {
    const Accelerator accelerator({.float32 = {.cuda_matmul_allow_tf32 = true}});
    allowed = error_of_product();
  }
  // Sums of 512 products of up to 1: about 1e-5 in float32; TF32 cuts each factor to 11 bits, 2^-11 = 5e-4.
  EXPECT_LT(exact, 2e-4);
  EXPECT_GT(high, 5 * exact) << "needs a GPU with TF32, as A100 and later";
  EXPECT_EQ(allowed, high);
  EXPECT_EQ(error_of_product(), exact) << "and afterwards as before";
}

}  // namespace

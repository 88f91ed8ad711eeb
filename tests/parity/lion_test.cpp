// Lion's numbers as its authors' program makes them, by its own step and by the fused one.
#include "accelerate/optim/lion.h"

#include <gtest/gtest.h>
#include <torch/torch.h>

#include "accelerate/optim/update.h"
#include "tests/parity/fixtures.h"

namespace parity {
namespace {

at::Tensor numbers(const Json& fixture, int64_t seed) {
  const auto shape = fixture.at("shape").get<std::vector<int64_t>>();
  at::Tensor values = torch::empty(shape, torch::kDouble);
  for (int64_t i = 0; i < values.numel(); ++i) {
    values.view(-1)[i] = (seed * seed * 29 + i * 83 + seed * i * 7) % 129 - 64;
  }
  return values / fixture.at("denominator").get<double>();
}

TEST(Lion, IsThatOfItsAuthors) {
  const Json fixture = read_fixture("lion.json");
  ASSERT_GE(fixture.at("cases").size(), 3U);
  for (const bool fused : {false, true}) {
    for (const Json& one : fixture.at("cases")) {
      SCOPED_TRACE(one.at("options").dump() + (fused ? " fused" : ""));
      const Json& given = one.at("options");
      at::Tensor parameter = numbers(fixture, 0).requires_grad_();
      accelerate::Lion lion({parameter}, accelerate::LionOptions(given.at("lr"))
                                             .betas({given.at("betas").at(0), given.at("betas").at(1)})
                                             .weight_decay(given.at("weight_decay")));
      const auto update = accelerate::internal::make_update(lion);
      const int64_t every = one.at("every");
      for (int64_t step = 1; step <= every * static_cast<int64_t>(one.at("steps").size()); ++step) {
        parameter.mutable_grad() = numbers(fixture, step);
        if (fused) {
          update->step();
        } else {
          lion.step();
        }
        if (step % every != 0) continue;
        const Json& expected = one.at("steps").at(static_cast<size_t>(step / every - 1));
        const auto near = [&](const at::Tensor& ours, const char* name) {
          const at::Tensor theirs = torch::tensor(expected.at(name).get<std::vector<double>>(), torch::kDouble);
          EXPECT_LT((ours.detach().flatten() - theirs).abs().max().item<double>(), 1e-14) << name << " " << step;
        };
        near(parameter, "parameter");
        near(
            static_cast<const accelerate::LionParamState&>(*lion.state().at(parameter.unsafeGetTensorImpl())).exp_avg(),
            "exp_avg");
      }
    }
  }
}

}  // namespace
}  // namespace parity

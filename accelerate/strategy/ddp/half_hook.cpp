#include "accelerate/strategy/ddp/half_hook.h"

#include <ATen/ATen.h>

#include <utility>

namespace accelerate::internal {
namespace {

/// Complete once `done` is and `low` has been converted back into `buffer`.
HookFuture converted_back(const HookFuture& done, const at::Tensor& low, const at::Tensor& buffer) {
  return done->then(
      [low, buffer](c10::ivalue::Future& arrived) {
        arrived.value();  // throws what went wrong
        const at::NoGradGuard no_grad;
        if (!buffer.is_same(low)) buffer.copy_(low);
        return c10::IValue(buffer);
      },
      c10::TensorType::get());
}

class SendAs final : public CommHook {
 public:
  explicit SendAs(c10::ScalarType dtype) : dtype_(dtype) {}
  HookFuture run(HookCall call) override {
    const at::Tensor buffer = call.bucket.getBuffer();
    const at::Tensor low = buffer.to(dtype_);
    return converted_back(average(low, call.ranks), low, buffer);
  }

 private:
  c10::ScalarType dtype_;
};

class WrapIn final : public CommHook {
 public:
  WrapIn(c10::ScalarType dtype, std::unique_ptr<CommHook> inner) : dtype_(dtype), inner_(std::move(inner)) {}
  HookFuture run(HookCall call) override {
    const at::Tensor buffer = call.bucket.getBuffer();
    at::Tensor low = buffer.to(dtype_);
    call.bucket.setBuffer(low);
    return converted_back(inner_->run(call), low, buffer);
  }
  void forget() override { inner_->forget(); }

 private:
  c10::ScalarType dtype_;
  std::unique_ptr<CommHook> inner_;
};

}  // namespace

std::unique_ptr<CommHook> send_as(c10::ScalarType dtype) { return std::make_unique<SendAs>(dtype); }

std::unique_ptr<CommHook> wrap_in(c10::ScalarType dtype, std::unique_ptr<CommHook> inner) {
  return std::make_unique<WrapIn>(dtype, std::move(inner));
}

}  // namespace accelerate::internal

#include "accelerate/strategy/ddp/side_stream.h"

#include <c10/core/Event.h>
#include <c10/core/impl/VirtualGuardImpl.h>
#include <torch/csrc/autograd/utils/lambda_post_hook.h>
#include <torch/csrc/autograd/variable.h>

namespace accelerate::internal {

using torch::autograd::variable_list;

template <class Act>
void SideStream::add_hook(const std::shared_ptr<torch::autograd::Node>& accumulator, Act act) {
  const auto hook = [act](const variable_list& outputs, const variable_list&) {
    act();
    return outputs;
  };
  const uintptr_t key = accumulator->add_post_hook(std::make_unique<torch::autograd::utils::LambdaPostHook>(hook));
  hooks_.emplace_back(accumulator, key);
}

SideStream::SideStream(const std::vector<at::Tensor>& parameters) : parameters_(parameters) {
  for (const at::Tensor& parameter : parameters_) {
    add_hook(torch::autograd::impl::grad_accumulator(parameter), [this, parameter] { enter(parameter); });
  }
}

void SideStream::complete() {
  for (const at::Tensor& parameter : parameters_) {
    add_hook(torch::autograd::impl::grad_accumulator(parameter), [this] { leave(); });
  }
}

SideStream::~SideStream() {
  for (const auto& [accumulator, key] : hooks_) accumulator->del_post_hook(key);
}

void SideStream::enter(const at::Tensor& parameter) {
  if (use_ == Use::kOff || parameter.is_cpu()) return;
  const c10::Device device = parameter.device();
  const c10::impl::VirtualGuardImpl streams(device.type());
  const c10::Stream current = streams.getStream(device);
  // Those of high priority are nobody else's: a stream that is captured must not be the one that brings batches.
  constexpr int kAttempts = 4;  // where a device has several
  for (int i = 0; i < kAttempts && (!side_ || *side_ == current); ++i) {
    side_ = streams.getStreamFromGlobalPool(device, /*isHighPriority=*/true);
  }
  c10::Event here(device.type());
  here.record(current);
  here.block(*side_);
  // Without a gradient the hook fills the bucket with zeros: in the same order as all others.
  if (parameter.grad().defined()) parameter.grad().record_stream(*side_);
  course_ = streams.exchangeStream(*side_);
}

void SideStream::leave() {
  if (!course_) return;
  const c10::impl::VirtualGuardImpl streams(course_->device_type());
  streams.exchangeStream(*std::exchange(course_, std::nullopt));
}

}  // namespace accelerate::internal

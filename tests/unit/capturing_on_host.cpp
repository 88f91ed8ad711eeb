// What CUDA's graphs do, on the host, so that everything around them is tested without a GPU: operators between `begin`
// and `end` are written down with their addresses and leave nothing changed, `launch` runs them again.

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/autocast_mode.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <torch/torch.h>

#include <cstring>
#include <unordered_map>
#include <unordered_set>
#include <utility>

#include "tests/unit/capturing.h"

namespace {

constexpr auto kKey = c10::DispatchKey::TESTING_ONLY_GenericWrapper;
constexpr auto kAbove = c10::DispatchKey::TESTING_ONLY_GenericMode;

/// A tensor by its address: whoever holds the same memory may move out of it.
at::Tensor by_address(const at::Tensor& tensor) {
  if (!tensor.defined() || tensor.unsafeGetTensorImpl()->is_wrapped_number()) return tensor;
  if (tensor.numel() == 0) return tensor.detach();
  const c10::InferenceMode usual(false);  // it is written where no such mode is
  return at::from_blob(const_cast<void*>(tensor.const_data_ptr()), tensor.sizes(), tensor.strides(),
                       tensor.options().requires_grad(false));
}

template <class Function>
c10::IValue mapped(const c10::IValue& value, const Function& function) {
  if (value.isTensor()) return function(value.toTensor());
  if (value.isTensorList()) {
    c10::List<at::Tensor> list;
    for (const at::Tensor& tensor : value.toTensorList()) list.push_back(function(tensor));
    return list;
  }
  if (value.isList() && !value.toListRef().empty() && value.toListRef()[0].isTensor()) {
    c10::List<std::optional<at::Tensor>> list;
    for (const c10::IValue& item : value.toListRef()) {
      list.push_back(item.isTensor() ? std::optional(function(item.toTensor())) : std::nullopt);
    }
    return list;
  }
  return value;
}

struct Call {
  c10::OperatorHandle op;
  std::vector<c10::IValue> arguments, results;
  c10::impl::LocalDispatchKeySet keys;
  at::ScalarType autocast;
};

class HostWork final : public accelerate::CapturedWork {
 public:
  HostWork(std::vector<Call> calls, std::vector<c10::Storage> memory)
      : calls_(std::move(calls)), memory_(std::move(memory)) {}

  void launch() override {
    const auto before = c10::impl::tls_local_dispatch_key_set();
    const auto dtype = at::autocast::get_autocast_dtype(at::kCPU);
    at::autocast::clear_cache();
    for (const Call& call : calls_) {
      auto keys = call.keys;
      keys.included_ = keys.included_.remove(kKey).remove(kAbove);
      keys.excluded_ = keys.excluded_.add(kKey).add(kAbove) | c10::autograd_dispatch_keyset |
                       c10::DispatchKeySet(c10::DispatchKey::ADInplaceOrView);
      c10::impl::_force_tls_local_dispatch_key_set(keys);
      at::autocast::set_autocast_dtype(at::kCPU, call.autocast);
      torch::jit::Stack stack(call.arguments);
      call.op.callBoxed(stack);
      c10::impl::_force_tls_local_dispatch_key_set(before);
      for (size_t i = 0; i < stack.size(); ++i) store(stack[i], call.results[i]);
    }
    at::autocast::clear_cache();
    at::autocast::set_autocast_dtype(at::kCPU, dtype);
  }

 private:
  static void store(const c10::IValue& fresh, const c10::IValue& place) {
    if (fresh.isTensor()) {
      if (!fresh.toTensor().defined() || fresh.toTensor().numel() == 0) return;
      if (fresh.toTensor().const_data_ptr() == place.toTensor().const_data_ptr()) return;
      const at::NoGradGuard no_grad;
      place.toTensor().copy_(fresh.toTensor());
    } else if (fresh.isList()) {
      for (size_t i = 0; i < fresh.toListRef().size(); ++i) store(fresh.toListRef()[i], place.toListRef()[i]);
    }
  }

  std::vector<Call> calls_;
  std::vector<c10::Storage> memory_;
};

class HostCapture;
thread_local HostCapture* capturing = nullptr;
thread_local bool unknown = false;

class HostCapture final : public accelerate::CaptureDevice {
 public:
  /// From now on, whether it captures or not: a guard of the user's that began before a capture and ends within it puts
  /// back what was included when it began.
  HostCapture() {
    install();
    c10::impl::tls_set_dispatch_key_included(kKey, true);
  }
  ~HostCapture() override { c10::impl::tls_set_dispatch_key_included(kKey, false); }

  void begin() override {
    unknown = broken_ = false;
    generator_ = at::detail::getDefaultCPUGenerator().get_state();
    capturing = this;
    c10::impl::tls_set_dispatch_key_included(kKey, true);  // another one may be gone
  }
  std::unique_ptr<accelerate::CapturedWork> end() override {
    leave();
    return std::make_unique<HostWork>(std::exchange(calls_, {}), std::exchange(memory_, {}));
  }
  void abandon() noexcept override {
    leave();
    calls_.clear();
    memory_.clear();
  }
  void mark() override { unknown = false; }
  bool has_unknown_work() override { return unknown; }
  bool is_broken() const override { return broken_; }
  void break_off() { broken_ = true; }
  void do_now(const std::function<void()>& work) override {
    const c10::impl::ExcludeDispatchKeyGuard outside(kKey);
    work();
  }
  c10::DataPtr copy(const void* data, size_t bytes) override {
    c10::DataPtr fresh = c10::GetAllocator(c10::kCPU)->allocate(bytes);
    if (bytes != 0) std::memcpy(fresh.get(), data, bytes);
    return fresh;
  }
  void copy(std::span<const accelerate::MemoryCopy> copies) override {
    for (const auto& [to, from, bytes] : copies) std::memcpy(to, from, bytes);
  }

  void call(const c10::OperatorHandle& op, c10::DispatchKeySet keys, torch::jit::Stack* stack) {
    const auto below = keys & c10::DispatchKeySet(c10::DispatchKeySet::FULL_AFTER, kKey);
    if (op.hasKernelForDispatchKey(c10::DispatchKey::CompositeImplicitAutograd))
      return op.redispatchBoxed(below, stack);
    // What converts its arguments first has them converted by operators of their own.
    if (below.has(c10::DispatchKey::AutocastCPU) && op.hasKernelForDispatchKey(c10::DispatchKey::AutocastCPU)) {
      return op.redispatchBoxed(below, stack);
    }
    const c10::FunctionSchema& schema = op.schema();
    Call call{.op = op,
              .arguments = {stack->end() - static_cast<std::ptrdiff_t>(schema.arguments().size()), stack->end()},
              .results = {},
              .keys = c10::impl::tls_local_dispatch_key_set(),
              .autocast = at::autocast::get_autocast_dtype(at::kCPU)};
    for (c10::IValue& argument : call.arguments) {
      argument = mapped(argument, [&](const at::Tensor& tensor) { return keep(tensor, /*is_argument=*/true); });
    }
    {
      const c10::impl::ExcludeDispatchKeyGuard inside(kKey);
      op.redispatchBoxed(below, stack);
    }
    for (auto result = stack->end() - static_cast<std::ptrdiff_t>(schema.returns().size()); result != stack->end();
         ++result) {
      call.results.push_back(mapped(*result, [&](const at::Tensor& tensor) {
        if (tensor.defined() && !seen_.contains(tensor.storage().unsafeGetStorageImpl())) {
          own_.insert(tensor.storage().unsafeGetStorageImpl());
        }
        return keep(tensor, /*is_argument=*/false);
      }));
    }
    calls_.push_back(std::move(call));
  }

 private:
  static void intercepted(const c10::OperatorHandle& op, c10::DispatchKeySet keys, torch::jit::Stack* stack) {
    // A guard of the user's that began while capturing switches the key on again when it ends.
    if (capturing == nullptr) {
      return op.redispatchBoxed(keys & c10::DispatchKeySet(c10::DispatchKeySet::FULL_AFTER, kKey), stack);
    }
    capturing->call(op, keys, stack);
  }
  static void install() {
    static const c10::RegistrationHandleRAII installed = c10::Dispatcher::singleton().registerFallback(
        kKey, c10::KernelFunction::makeFromBoxedFunction<&intercepted>(), "host_capture");
  }

  /// Not every operator says which arguments it changes: what was there before is saved, whichever it is.
  at::Tensor keep(const at::Tensor& tensor, bool is_argument) {
    if (!tensor.defined()) return tensor;
    const c10::impl::ExcludeDispatchKeyGuard inside(kKey);
    const c10::StorageImpl* storage = tensor.storage().unsafeGetStorageImpl();
    if (seen_.insert(storage).second) memory_.push_back(tensor.storage());
    if (is_argument && !own_.contains(storage) && !before_.contains(storage)) {
      const auto* bytes = static_cast<const char*>(storage->data());
      before_.emplace(storage, std::pair(tensor.storage(), std::vector<char>(bytes, bytes + storage->nbytes())));
    }
    return by_address(tensor);
  }

  /// The device has done nothing yet.
  void leave() noexcept {
    capturing = nullptr;
    for (auto& [impl, saved] : before_) {
      if (!saved.second.empty()) std::memcpy(saved.first.mutable_data(), saved.second.data(), saved.second.size());
    }
    before_.clear();
    own_.clear();
    seen_.clear();
    at::Generator(at::detail::getDefaultCPUGenerator()).set_state(generator_);
  }

  std::vector<Call> calls_;
  std::vector<c10::Storage> memory_;
  std::unordered_set<const c10::StorageImpl*> seen_, own_;  ///< all, and those made while capturing
  std::unordered_map<const c10::StorageImpl*, std::pair<c10::Storage, std::vector<char>>> before_;
  at::Tensor generator_;
  bool broken_ = false;
};

HostCapture* capturing_now() { return capturing; }

}  // namespace

namespace capturing {

std::optional<std::string> refusal() { return std::nullopt; }
c10::Device device() { return c10::kCPU; }

accelerate::AcceleratorOptions options() {
  accelerate::AcceleratorOptions options{.cpu = true};
  options.extensions.captures = {
      {.type = c10::kCPU, .make = [](c10::Device) { return std::make_unique<HostCapture>(); }}};
  return options;
}

void wait_for_device() {
  if (::capturing_now() == nullptr) return;
  ::capturing_now()->break_off();
  TORCH_CHECK(false, "operation not permitted while something is captured");
}

void give_unknown_work(const at::Tensor& counter) {
  const c10::impl::ExcludeDispatchKeyGuard past(kAbove);
  counter.add_(1);
  unknown = true;
}

}  // namespace capturing

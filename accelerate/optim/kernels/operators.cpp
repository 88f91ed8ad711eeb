#include "accelerate/optim/kernels/operators.h"

#include <ATen/ATen.h>
#include <torch/library.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <string>
#include <thread>
#include <tuple>
#include <utility>
#include <vector>

#include "accelerate/core/error.h"
#include "accelerate/optim/kernels/device.h"

namespace accelerate::internal::kernels {
namespace {

using OptionalTensor = std::optional<at::Tensor>;

const DeviceKernels& kernels_of(c10::Device device) {
  static const std::vector<DeviceKernels> all = builtin_devices();
  for (const DeviceKernels& kernels : all) {
    if (kernels.type == device.type()) return kernels;
  }
  TORCH_CHECK(false, "accelerate: no kernels that update parameters on ", device);
}

Number number_of(at::ScalarType dtype) {
  switch (dtype) {
    case at::kFloat:
      return Number::kFloat;
    case at::kDouble:
      return Number::kDouble;
    case at::kHalf:
      return Number::kHalf;
    case at::kBFloat16:
      return Number::kBFloat16;
    default:
      TORCH_CHECK(false, "accelerate: parameters of ", dtype, " cannot be updated; float, double, half, bfloat16 can");
  }
}

/// The memory of one element of `tensor`, which is on `device`; null where there is none.
template <class T>
T* number_in(const OptionalTensor& tensor, c10::Device device, const char* name) {
  if (!tensor || !tensor->defined()) return nullptr;
  TORCH_CHECK(
      tensor->numel() == 1 && tensor->scalar_type() == c10::CppTypeToScalarType<T>::value && tensor->device() == device,
      "accelerate: ", name, " is ", tensor->scalar_type(), " of ", tensor->numel(), " elements on ", tensor->device(),
      ", expected one of ", c10::CppTypeToScalarType<T>::value, " on ", device);
  return tensor->mutable_data_ptr<T>();
}

bool same_layout(const at::Tensor& a, const at::Tensor& b) {
  if (a.sizes() != b.sizes()) return false;
  if (a.numel() == 0) return true;
  for (int64_t i = 0; i < a.dim(); ++i) {
    if (a.size(i) != 1 && a.stride(i) != b.stride(i)) return false;  // the stride of one element is never used
  }
  return true;
}

/// The rule as an operator takes it, where the call counts.
std::vector<double> numbers_of(const Following& following) {
  if (!following.updates.defined()) return {};
  const EmaDecay& decay = following.decay;
  // No count comes near the whole numbers that float64 has not.
  const auto after = static_cast<double>(std::min(decay.update_after_step, int64_t{1} << 53));
  return {decay.decay, decay.min_decay, decay.inv_gamma, decay.power, after, static_cast<double>(decay.rise)};
}
EmaDecay decay_of(at::ArrayRef<double> numbers) {
  TORCH_CHECK(numbers.size() == 6, "accelerate: a decay of ", numbers.size(), " numbers, expected 6");
  return {.decay = numbers[0],
          .min_decay = numbers[1],
          .inv_gamma = numbers[2],
          .power = numbers[3],
          .update_after_step = static_cast<int64_t>(numbers[4]),
          .rise = static_cast<EmaRise>(static_cast<int>(numbers[5]))};
}

/// `Following` as an operator takes it.
struct Followers {
  at::TensorList averages;
  const OptionalTensor& updates;
  const OptionalTensor& kept;
  at::ArrayRef<double> decay;
};

/// Checks the lists and gathers what they point to: parameters, gradients and state of one dtype; with copies of the
/// parameters these and the gradients are of another one. Where parameters are rounded stochastically, they are, too.
/// Averages are of what is computed with.
class Arrays {
 public:
  explicit Arrays(at::ArrayRef<at::TensorList> lists, at::TensorList copies = {}, const OptionalTensor& draws = {},
                  at::TensorList averages = {}) {
    std::vector<at::TensorList> all = lists.vec();
    if (!copies.empty()) all.push_back(copies);
    if (!averages.empty()) all.push_back(averages);
    const at::TensorList parameters = all.front();
    for (const at::TensorList& list : all) {
      TORCH_CHECK(list.size() == parameters.size(), "accelerate: ", list.size(), " tensors beside ", parameters.size(),
                  " parameters");
    }
    if (parameters.empty()) return;
    device_ = parameters.front().device();
    dtype_ = gradients_ = parameters.front().scalar_type();
    if (!copies.empty()) {
      gradients_ = copies.front().scalar_type();
      TORCH_CHECK(dtype_ == at::kFloat && (gradients_ == at::kHalf || gradients_ == at::kBFloat16),
                  "accelerate: copies of ", gradients_, " of parameters of ", dtype_,
                  ", expected 16 bits of float parameters");
    }
    const bool is_rounded = draws && draws->defined();
    if (is_rounded) {
      TORCH_CHECK(dtype_ == at::kBFloat16 && copies.empty(), "accelerate: parameters of ", dtype_,
                  copies.empty() ? "" : " with copies", " cannot be rounded stochastically; bfloat16 can");
      TORCH_CHECK(draws->scalar_type() == at::kLong && draws->numel() == 2 && draws->is_contiguous() &&
                      draws->device() == device_,
                  "accelerate: draws are ", draws->numel(), " of ", draws->scalar_type(), " on ", draws->device(),
                  ", expected a seed and a count of int64 on ", device_);
      dtype_ = at::kFloat;
      draws_ = draws->mutable_data_ptr<int64_t>();
    }
    std::vector<at::ScalarType> dtypes(all.size(), dtype_);
    if (is_rounded) dtypes[0] = gradients_;
    if (is_rounded || !copies.empty()) dtypes[1] = gradients_;
    if (!copies.empty()) dtypes[lists.size()] = gradients_;
    if (!averages.empty()) dtypes.back() = dtype_ == at::kDouble ? at::kDouble : at::kFloat;
    for (size_t t = 0; t < parameters.size(); ++t) {
      TORCH_CHECK(parameters[t].layout() == at::kStrided && parameters[t].is_non_overlapping_and_dense(),
                  "accelerate: parameter ", t, " has gaps or overlaps");
      sizes_.push_back(parameters[t].numel());
      for (size_t l = 0; l < all.size(); ++l) {
        const at::Tensor& one = all[l][t];
        if (!averages.empty() && l + 1 == all.size() && one.numel() == 0) {
          arrays_.push_back(nullptr);
          continue;
        }
        TORCH_CHECK(one.layout() == at::kStrided && one.device() == device_ && one.scalar_type() == dtypes[l] &&
                        same_layout(parameters[t], one),
                    "accelerate: a tensor of ", one.scalar_type(), ' ', one.sizes(), " on ", one.device(),
                    " beside parameter ", t, ", of ", dtype_, ' ', parameters[t].sizes(), " on ", device_);
        arrays_.push_back(one.mutable_data_ptr());
      }
    }
  }

  bool empty() const { return sizes_.empty(); }
  c10::Device device() const { return device_; }

  ScaleCall scale_call(const at::Tensor& factor) const {
    TORCH_CHECK(factor.defined(), "accelerate: a multiplication without a factor");
    return {.number = number_of(dtype_),
            .tensors = static_cast<int64_t>(sizes_.size()),
            .sizes = sizes_.data(),
            .arrays = arrays_.data(),
            .factor = number_in<float>(factor, device_, "factor")};
  }

  NormCall norm_call(const OptionalTensor& factor, const at::Tensor& norm, const at::Tensor& found) const {
    return {.number = number_of(dtype_),
            .tensors = static_cast<int64_t>(sizes_.size()),
            .sizes = sizes_.data(),
            .arrays = arrays_.data(),
            .factor = number_in<float>(factor, device_, "grad_factor"),
            .norm = norm.mutable_data_ptr(),
            .found = found.mutable_data_ptr<float>()};
  }

  Call call(const OptionalTensor& updates, const at::Tensor& lr, const OptionalTensor& factor,
            const OptionalTensor& skip) const {
    TORCH_CHECK(lr.defined(), "accelerate: an update without a learning rate");
    return {.number = number_of(dtype_),
            .gradients = number_of(gradients_),
            .tensors = static_cast<int64_t>(sizes_.size()),
            .sizes = sizes_.data(),
            .arrays = arrays_.data(),
            .lr = number_in<double>(lr, device_, "lr"),
            .updates = number_in<int64_t>(updates, device_, "updates"),
            .progress = nullptr,
            .factor = number_in<float>(factor, device_, "grad_factor"),
            .skip = number_in<float>(skip, device_, "found_inf"),
            .draws = draws_,
            .averages = {},
            .decay = {}};
  }

  /// The same with averages that follow.
  Call call(const OptionalTensor& updates, const at::Tensor& lr, const OptionalTensor& factor,
            const OptionalTensor& skip, const Followers& followers) const {
    Call call = this->call(updates, lr, factor, skip);
    if (followers.averages.empty()) return call;
    call.averages = {.updates = number_in<int64_t>(followers.updates, device_, "average_updates"),
                     .kept = number_in<double>(followers.kept, device_, "average_kept"),
                     .skip = call.skip};
    TORCH_CHECK(call.averages.kept != nullptr, "accelerate: averages without what they keep");
    if (call.averages.updates != nullptr) call.decay = decay_of(followers.decay);
    return call;
  }

 private:
  c10::Device device_ = c10::kCPU;
  at::ScalarType dtype_ = at::kFloat;
  at::ScalarType gradients_ = at::kFloat;
  int64_t* draws_ = nullptr;
  std::vector<int64_t> sizes_;
  std::vector<void*> arrays_;
};

void adam(Decay decay, at::TensorList parameters, at::TensorList gradients, at::TensorList first, at::TensorList second,
          at::TensorList largest, at::TensorList copies, const at::Tensor& updates, const at::Tensor& lr, double beta1,
          double beta2, double weight_decay, double eps, const OptionalTensor& factor, const OptionalTensor& skip,
          const OptionalTensor& draws, const Followers& followers) {
  TORCH_CHECK(updates.defined(), "accelerate: an update without a count");
  if (largest.empty()) {
    const Arrays arrays({parameters, gradients, first, second}, copies, draws, followers.averages);
    if (arrays.empty()) return;
    kernels_of(arrays.device())
        .adam({beta1, beta2, weight_decay, eps, decay}, arrays.call(updates, lr, factor, skip, followers),
              arrays.device());
  } else {
    const Arrays arrays({parameters, gradients, first, second, largest}, copies, draws, followers.averages);
    if (arrays.empty()) return;
    kernels_of(arrays.device())
        .amsgrad({beta1, beta2, weight_decay, eps, decay}, arrays.call(updates, lr, factor, skip, followers),
                 arrays.device());
  }
}

template <Decay kDecay>
void adam_operator(at::TensorList parameters, at::TensorList gradients, at::TensorList first, at::TensorList second,
                   at::TensorList largest, at::TensorList copies, const at::Tensor& updates, const at::Tensor& lr,
                   double beta1, double beta2, double weight_decay, double eps, const OptionalTensor& factor,
                   const OptionalTensor& skip, const OptionalTensor& draws, at::TensorList averages,
                   const OptionalTensor& average_updates, const OptionalTensor& average_kept,
                   at::ArrayRef<double> average_decay) {
  adam(kDecay, parameters, gradients, first, second, largest, copies, updates, lr, beta1, beta2, weight_decay, eps,
       factor, skip, draws, {averages, average_updates, average_kept, average_decay});
}

void sgd_operator(at::TensorList parameters, at::TensorList gradients, at::TensorList buffers, at::TensorList copies,
                  const OptionalTensor& updates, const at::Tensor& lr, double momentum, double dampening,
                  double weight_decay, bool nesterov, const OptionalTensor& factor, const OptionalTensor& skip,
                  const OptionalTensor& draws, at::TensorList averages, const OptionalTensor& average_updates,
                  const OptionalTensor& average_kept, at::ArrayRef<double> average_decay) {
  const Momentum kind = nesterov ? Momentum::kNesterov : Momentum::kPlain;
  const Followers followers{averages, average_updates, average_kept, average_decay};
  if (buffers.empty()) {
    const Arrays arrays({parameters, gradients}, copies, draws, averages);
    if (arrays.empty()) return;
    kernels_of(arrays.device())
        .sgd({momentum, dampening, weight_decay, kind}, arrays.call(updates, lr, factor, skip, followers),
             arrays.device());
  } else {
    const Arrays arrays({parameters, gradients, buffers}, copies, draws, averages);
    if (arrays.empty()) return;
    kernels_of(arrays.device())
        .momentum({momentum, dampening, weight_decay, kind}, arrays.call(updates, lr, factor, skip, followers),
                  arrays.device());
  }
}

void lion_operator(at::TensorList parameters, at::TensorList gradients, at::TensorList momenta, at::TensorList copies,
                   const at::Tensor& lr, double beta1, double beta2, double weight_decay, const OptionalTensor& factor,
                   const OptionalTensor& skip, const OptionalTensor& draws, at::TensorList averages,
                   const OptionalTensor& average_updates, const OptionalTensor& average_kept,
                   at::ArrayRef<double> average_decay) {
  const Arrays arrays({parameters, gradients, momenta}, copies, draws, averages);
  if (arrays.empty()) return;
  const Followers followers{averages, average_updates, average_kept, average_decay};
  kernels_of(arrays.device())
      .lion({beta1, beta2, weight_decay}, arrays.call({}, lr, factor, skip, followers), arrays.device());
}

void round_operator(at::TensorList parameters, at::TensorList values, const at::Tensor& draws) {
  const Arrays arrays({parameters, parameters, values}, {}, draws);
  if (arrays.empty()) return;
  const at::Tensor rate = at::zeros({}, at::TensorOptions(at::kDouble).device(arrays.device()));
  kernels_of(arrays.device()).assign({}, arrays.call({}, rate, {}, {}), arrays.device());
}

void scale_operator(at::TensorList tensors, const at::Tensor& factor) {
  const Arrays arrays(at::ArrayRef<at::TensorList>{tensors});
  if (!arrays.empty()) kernels_of(arrays.device()).scale(arrays.scale_call(factor), arrays.device());
}

std::tuple<at::Tensor, at::Tensor> norm_operator(at::TensorList gradients, const OptionalTensor& factor) {
  const Arrays arrays(at::ArrayRef<at::TensorList>{gradients});
  TORCH_CHECK(!arrays.empty(), "accelerate: the norm of no gradients");
  const auto on = at::TensorOptions(arrays.device());
  const at::Tensor norm =
      at::empty({}, on.dtype(gradients.front().scalar_type() == at::kDouble ? at::kDouble : at::kFloat));
  const at::Tensor found = at::zeros({1}, on.dtype(at::kFloat));
  kernels_of(arrays.device()).norm(arrays.norm_call(factor, norm, found), arrays.device());
  return {norm, found};
}

/// Of one pair of dtypes.
struct EmaKind {
  Number average, weight;
  std::vector<int64_t> sizes = {};
  std::vector<void*> arrays = {};
};

std::vector<EmaKind> kinds_of(at::TensorList averages, at::TensorList weights, c10::Device device) {
  TORCH_CHECK(averages.size() == weights.size(), "accelerate: ", weights.size(), " weights beside ", averages.size(),
              " averages");
  std::vector<EmaKind> kinds;
  for (size_t t = 0; t < averages.size(); ++t) {
    const at::Tensor &average = averages[t], &weight = weights[t];
    TORCH_CHECK(average.device() == device && can_follow(average, weight), "accelerate: average ", t, ", of ",
                average.scalar_type(), ' ', average.sizes(), " on ", average.device(), ", cannot follow a weight of ",
                weight.scalar_type(), ' ', weight.sizes(), " on ", weight.device(), " beside a count on ", device);
    const Number of_average = number_of(average.scalar_type()), of_weight = number_of(weight.scalar_type());
    auto kind = std::find_if(kinds.begin(), kinds.end(),
                             [&](const EmaKind& one) { return one.average == of_average && one.weight == of_weight; });
    if (kind == kinds.end()) kind = kinds.insert(kind, EmaKind{.average = of_average, .weight = of_weight});
    kind->sizes.push_back(average.numel());
    kind->arrays.push_back(average.mutable_data_ptr());
    kind->arrays.push_back(const_cast<void*>(weight.const_data_ptr()));  // only read
  }
  return kinds;
}

void follow(const std::vector<EmaKind>& kinds, const EmaClock& clock, c10::Device device) {
  const DeviceKernels& kernels = kernels_of(device);
  for (const EmaKind& kind : kinds) {
    kernels.ema({.average = kind.average,
                 .weight = kind.weight,
                 .tensors = static_cast<int64_t>(kind.sizes.size()),
                 .sizes = kind.sizes.data(),
                 .arrays = kind.arrays.data(),
                 .kept = clock.kept,
                 .skip = clock.skip},
                device);
  }
}

void ema_operator(at::TensorList averages, at::TensorList weights, const at::Tensor& updates, double decay,
                  double min_decay, bool use_warmup, double inv_gamma, double power, bool ramp_up,
                  int64_t update_after_step, const OptionalTensor& skip) {
  TORCH_CHECK(updates.defined(), "accelerate: averages without a count");
  const c10::Device device = updates.device();
  const std::vector<EmaKind> kinds = kinds_of(averages, weights, device);
  const at::Tensor kept = at::empty({}, at::TensorOptions(at::kDouble).device(device));
  const EmaClock clock{.updates = number_in<int64_t>(updates, device, "updates"),
                       .kept = kept.mutable_data_ptr<double>(),
                       .skip = number_in<float>(skip, device, "found_inf")};
  const EmaRise rise = use_warmup ? EmaRise::kWarmUp : ramp_up ? EmaRise::kRamp : EmaRise::kNone;
  kernels_of(device).count_ema({decay, min_decay, inv_gamma, power, update_after_step, rise}, clock, device);
  follow(kinds, clock, device);
}

void follow_operator(at::TensorList averages, at::TensorList weights, const at::Tensor& kept,
                     const OptionalTensor& skip) {
  TORCH_CHECK(kept.defined(), "accelerate: averages without what they keep");
  const c10::Device device = kept.device();
  follow(kinds_of(averages, weights, device),
         {.kept = number_in<double>(kept, device, "kept"), .skip = number_in<float>(skip, device, "found_inf")},
         device);
}

void publish_operator(const at::Tensor& number, const at::Tensor& outcomes, const OptionalTensor& skip,
                      const OptionalTensor& kept) {
  const c10::Device device = number.device();
  TORCH_CHECK(outcomes.is_cpu() && outcomes.scalar_type() == at::kLong && outcomes.numel() == 2 &&
                  outcomes.is_contiguous() && (device.is_cpu() || outcomes.is_pinned()),
              "accelerate: outcomes are two numbers of int64 on the host, pinned for a device");
  kernels_of(device).publish(number_in<int64_t>(number, device, "number"), outcomes.mutable_data_ptr<int64_t>(),
                             number_in<float>(skip, device, "found_inf"), number_in<float>(kept, device, "kept"),
                             device);
}

bool await_operator(const at::Tensor& number, const at::Tensor& outcomes, int64_t update) {
  using Time = std::chrono::steady_clock;
  const c10::Device device = number.device();
  Time::time_point begin = Time::now(), idle_since = Time::time_point::max();
  while (true) {
    if (const auto skipped = peek_update(outcomes, update)) return *skipped;
    const Time::time_point now = Time::now();
    if (now - begin < std::chrono::microseconds(200)) continue;  // most waits are shorter
    if (!kernels_of(device).idle(device)) {
      idle_since = Time::time_point::max();
    } else if (idle_since == Time::time_point::max()) {
      idle_since = now;
    }
    TORCH_CHECK(idle_since > now - std::chrono::seconds(10), "accelerate: the outcome of update ", update,
                " does not come: nothing is queued on the current stream of ", device);
    std::this_thread::sleep_for(std::chrono::microseconds(now - begin < std::chrono::milliseconds(20) ? 20 : 200));
  }
}

/// Defined on the first use: a static initialiser of a static library would be dropped where nobody calls it.
class Library {
 public:
  Library() : library_(torch::Library::FRAGMENT, "accelerate", std::nullopt, __FILE__, __LINE__) {
    define("fused_adam_", std::string(kAdam) + kOfAll, adam_operator<Decay::kGradient>);
    define("fused_adamw_", std::string(kAdam) + kOfAll, adam_operator<Decay::kDecoupled>);
    define("fused_sgd_",
           std::string("(Tensor(a!)[] params, Tensor(b!)[] grads, Tensor(c!)[] momentum_buffers, "
                       "Tensor(d!)[] param_copies, Tensor(e!)? updates, Tensor lr, "
                       "float momentum, float dampening, float weight_decay, bool nesterov, ") +
               kOfAll,
           sgd_operator);
    define("fused_lion_",
           std::string("(Tensor(a!)[] params, Tensor(b!)[] grads, Tensor(c!)[] exp_avgs, Tensor(d!)[] param_copies, "
                       "Tensor lr, float beta1, float beta2, float weight_decay, ") +
               kOfAll,
           lion_operator);
    define("round_stochastically_", "(Tensor(a!)[] params, Tensor[] values, Tensor(b!) draws) -> ()", round_operator);
    define("scale_", "(Tensor(a!)[] tensors, Tensor factor) -> ()", scale_operator);
    define("gradient_norm", "(Tensor[] grads, Tensor? grad_factor) -> (Tensor norm, Tensor found_inf)", norm_operator);
    define(
        "fused_ema_",
        "(Tensor(a!)[] averages, Tensor[] weights, Tensor(b!) updates, float decay, float min_decay, bool "
        "use_ema_warmup, float inv_gamma, float power, bool ramp_up, int update_after_step, Tensor? found_inf) -> ()",
        ema_operator);
    define("follow_weights_", "(Tensor(a!)[] averages, Tensor[] weights, Tensor kept, Tensor? found_inf) -> ()",
           follow_operator);
    define("publish_update_", "(Tensor(a!) number, Tensor(b!) outcomes, Tensor? found_inf, Tensor(c!)? kept) -> ()",
           publish_operator);
    define("await_update", "(Tensor number, Tensor outcomes, int update) -> bool", await_operator);
  }

 private:
  static constexpr const char* kAdam =
      "(Tensor(a!)[] params, Tensor(b!)[] grads, Tensor(c!)[] exp_avgs, Tensor(d!)[] exp_avg_sqs, "
      "Tensor(e!)[] max_exp_avg_sqs, Tensor(f!)[] param_copies, Tensor(g!) updates, Tensor lr, float beta1, float "
      "beta2, float weight_decay, float eps, ";
  /// What every update takes.
  static constexpr const char* kOfAll =
      "Tensor? grad_factor, Tensor? found_inf, Tensor(z!)? rounding_draws, Tensor(y!)[] averages, "
      "Tensor(x!)? average_updates, Tensor(w!)? average_kept, float[] average_decay) -> ()";

  template <class Function>
  void define(const char* name, const std::string& arguments, Function* function) {
    library_.def((name + arguments).c_str());
    library_.impl(name, torch::dispatch(c10::DispatchKey::CompositeExplicitAutograd, function));
    // They are called without a graph, and versions are the caller's to count.
    for (const auto key :
         {c10::DispatchKey::AutogradCPU, c10::DispatchKey::AutogradCUDA, c10::DispatchKey::ADInplaceOrView}) {
      library_.impl(name, torch::dispatch(key, torch::CppFunction::makeFallthrough()));
    }
  }

  torch::Library library_;
};

void define_all() { static const Library library; }

OptionalTensor given(const at::Tensor& tensor) { return tensor.defined() ? OptionalTensor(tensor) : std::nullopt; }

template <class Function>
c10::TypedOperatorHandle<Function> find(const char* name) {
  define_all();
  return c10::Dispatcher::singleton().findSchemaOrThrow(name, "").typed<Function>();
}

}  // namespace

void fused_adam(const Lists& lists, const Moments& moments, const Clock& clock, const Adam<0>& numbers,
                const Verdict& verdict) {
  static const auto coupled = find<decltype(adam_operator<Decay::kGradient>)>("accelerate::fused_adam_");
  static const auto decoupled = find<decltype(adam_operator<Decay::kDecoupled>)>("accelerate::fused_adamw_");
  (numbers.decay == Decay::kDecoupled ? decoupled : coupled)
      .call(lists.parameters, lists.gradients, moments.first, moments.second, moments.largest, lists.copies,
            clock.updates, clock.lr, numbers.beta1, numbers.beta2, numbers.weight_decay, numbers.eps,
            given(verdict.factor), given(verdict.skip), given(lists.draws), lists.following.averages,
            given(lists.following.updates), given(lists.following.kept), numbers_of(lists.following));
}

void fused_sgd(const Lists& lists, at::TensorList buffers, const Clock& clock, const Sgd<1>& numbers,
               const Verdict& verdict) {
  static const auto found = find<decltype(sgd_operator)>("accelerate::fused_sgd_");
  found.call(lists.parameters, lists.gradients, buffers, lists.copies, given(clock.updates), clock.lr, numbers.momentum,
             numbers.dampening, numbers.weight_decay, numbers.kind == Momentum::kNesterov, given(verdict.factor),
             given(verdict.skip), given(lists.draws), lists.following.averages, given(lists.following.updates),
             given(lists.following.kept), numbers_of(lists.following));
}

void fused_lion(const Lists& lists, at::TensorList averages, const at::Tensor& lr, const Lion& numbers,
                const Verdict& verdict) {
  static const auto found = find<decltype(lion_operator)>("accelerate::fused_lion_");
  found.call(lists.parameters, lists.gradients, averages, lists.copies, lr, numbers.beta1, numbers.beta2,
             numbers.weight_decay, given(verdict.factor), given(verdict.skip), given(lists.draws),
             lists.following.averages, given(lists.following.updates), given(lists.following.kept),
             numbers_of(lists.following));
}

void round_stochastically(at::TensorList parameters, at::TensorList values, const at::Tensor& draws) {
  static const auto found = find<decltype(round_operator)>("accelerate::round_stochastically_");
  found.call(parameters, values, draws);
}

void scale(at::TensorList tensors, const at::Tensor& factor) {
  static const auto found = find<decltype(scale_operator)>("accelerate::scale_");
  found.call(tensors, factor);
}

Norm gradient_norm(at::TensorList gradients, const at::Tensor& factor) {
  static const auto known = find<decltype(norm_operator)>("accelerate::gradient_norm");
  auto [norm, found] = known.call(gradients, given(factor));
  return {std::move(norm), std::move(found)};
}

bool can_follow(const at::Tensor& average, const at::Tensor& weight) {
  const at::ScalarType wide = average.scalar_type(), low = weight.scalar_type();
  const bool same = wide == low && (wide == at::kFloat || wide == at::kDouble);
  if (!same && !(wide == at::kFloat && (low == at::kHalf || low == at::kBFloat16))) return false;
  return average.device() == weight.device() && average.layout() == at::kStrided && weight.layout() == at::kStrided &&
         average.is_non_overlapping_and_dense() && same_layout(average, weight);
}

void fused_ema(const Averages& lists, const at::Tensor& updates, const EmaDecay& decay, const at::Tensor& skip) {
  static const auto found = find<decltype(ema_operator)>("accelerate::fused_ema_");
  found.call(lists.averages, lists.weights, updates, decay.decay, decay.min_decay, decay.rise == EmaRise::kWarmUp,
             decay.inv_gamma, decay.power, decay.rise == EmaRise::kRamp, decay.update_after_step, given(skip));
}

void follow_weights(const Averages& lists, const at::Tensor& kept, const at::Tensor& skip) {
  static const auto found = find<decltype(follow_operator)>("accelerate::follow_weights_");
  found.call(lists.averages, lists.weights, kept, given(skip));
}

void publish_update(const at::Tensor& number, const at::Tensor& outcomes, const OptionalTensor& skip,
                    const OptionalTensor& kept) {
  static const auto found = find<decltype(publish_operator)>("accelerate::publish_update_");
  found.call(number, outcomes, skip, kept);
}

bool await_update(const at::Tensor& number, const at::Tensor& outcomes, int64_t update) {
  static const auto found = find<decltype(await_operator)>("accelerate::await_update");
  return found.call(number, outcomes, update);
}

std::optional<bool> peek_update(const at::Tensor& outcomes, int64_t update) {
  int64_t* numbers = outcomes.mutable_data_ptr<int64_t>();
  if (std::atomic_ref(numbers[0]).load(std::memory_order_acquire) < update) return std::nullopt;
  return numbers[1] != 0;
}

}  // namespace accelerate::internal::kernels

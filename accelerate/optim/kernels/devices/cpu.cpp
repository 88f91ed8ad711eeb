// Updates on the CPU: what the kernels for CUDA are compared with.
#include <ATen/Parallel.h>
#include <c10/util/BFloat16.h>
#include <c10/util/Half.h>

#include <atomic>
#include <cmath>
#include <type_traits>

#include "accelerate/optim/kernels/device.h"

namespace accelerate::internal::kernels {
namespace {

constexpr int64_t kGrain = 16384;  ///< elements that pay for a thread

/// Parameters and state of T, gradients of G; where that is another, the parameters' copies are of it, too, or, if they
/// are rounded stochastically, the parameters themselves.
template <class T, class G, class Rule, bool kRounds = false>
void update_all(const Rule& rule, const Call& call) {
  using Real = std::conditional_t<std::is_same_v<T, double>, double, float>;
  constexpr int kArrays = Rule::kArrays;
  constexpr bool kCopies = !std::is_same_v<T, G> && !kRounds;
  const bool follows = call.averages.kept != nullptr;
  const bool skips = call.skip != nullptr && *call.skip != 0;
  const bool scales = call.factor != nullptr;
  Progress progress;
  if (call.updates != nullptr && !skips) progress = rule.progress(static_cast<double>(++*call.updates));
  const auto element = rule.template with<Real>(*call.lr, progress);
  const Real factor = scales ? static_cast<Real>(*call.factor) : Real(1);
  if (follows) call.averages.count(call.decay);
  const Average<Real> next(follows ? *call.averages.kept : 0);
  const auto is_wide = [](int a) { return a != 1 && !(kRounds && a == 0); };
  uint64_t seed = 0, draw = 0;
  if constexpr (kRounds) {
    seed = static_cast<uint64_t>(call.draws[0]);
    draw = static_cast<uint64_t>(++call.draws[1]);
  }
  for (int64_t t = 0; t < call.tensors; ++t) {
    void* const* arrays = call.arrays + t * (kArrays + kCopies + follows);
    G* const gradients = static_cast<G*>(arrays[1]);
    Real* const averages = follows ? static_cast<Real*>(arrays[kArrays + kCopies]) : nullptr;
    at::parallel_for(0, call.sizes[t], kGrain, [&](int64_t begin, int64_t end) {
      RandomWords random{};
      for (int64_t i = begin; i < end; ++i) {
        if (kRounds && (i == begin || i % 4 == 0)) {
          random = random_words(seed, random_place(t, i), draw);
        }
        Real x[kArrays];
        for (int a = 0; a < kArrays; ++a) {
          if (is_wide(a)) x[a] = static_cast<Real>(static_cast<const T*>(arrays[a])[i]);
        }
        if constexpr (kRounds) x[0] = static_cast<Real>(static_cast<const G*>(arrays[0])[i]);
        if (scales) gradients[i] = static_cast<G>(static_cast<Real>(gradients[i]) * factor);
        x[1] = static_cast<Real>(gradients[i]);
        if (skips) continue;
        element(x);
        for (int a = 0; a < kArrays; ++a) {
          if (is_wide(a)) static_cast<T*>(arrays[a])[i] = static_cast<T>(x[a]);
        }
        if constexpr (kRounds) {
          static_cast<G*>(arrays[0])[i] = G(rounded_by_chance(x[0], random.words[i % 4]), G::from_bits());
        }
        if constexpr (kCopies) static_cast<G*>(arrays[kArrays])[i] = static_cast<G>(x[0]);
        if (averages == nullptr) continue;
        // What was stored, not what it was rounded from.
        using Stored = std::conditional_t<kRounds, G, T>;
        averages[i] = next(averages[i], static_cast<Real>(static_cast<const Stored*>(arrays[0])[i]));
      }
    });
  }
}

template <class Rule>
void update(const Rule& rule, const Call& call, c10::Device) {
  switch (call.number) {
    case Number::kFloat:
      if (call.draws != nullptr) return update_all<float, c10::BFloat16, Rule, true>(rule, call);
      if (call.gradients == Number::kHalf) return update_all<float, c10::Half>(rule, call);
      if (call.gradients == Number::kBFloat16) return update_all<float, c10::BFloat16>(rule, call);
      return update_all<float, float>(rule, call);
    case Number::kDouble:
      return update_all<double, double>(rule, call);
    case Number::kHalf:
      return update_all<c10::Half, c10::Half>(rule, call);
    case Number::kBFloat16:
      return update_all<c10::BFloat16, c10::BFloat16>(rule, call);
  }
}

template <class T>
void scale_all(const ScaleCall& call) {
  using Real = std::conditional_t<std::is_same_v<T, double>, double, float>;
  const auto factor = static_cast<Real>(*call.factor);
  if (factor == 1) return;
  for (int64_t t = 0; t < call.tensors; ++t) {
    T* const x = static_cast<T*>(call.arrays[t]);
    for (int64_t i = 0; i < call.sizes[t]; ++i) x[i] = static_cast<T>(static_cast<Real>(x[i]) * factor);
  }
}

void scale(const ScaleCall& call, c10::Device) {
  switch (call.number) {
    case Number::kFloat:
      return scale_all<float>(call);
    case Number::kDouble:
      return scale_all<double>(call);
    case Number::kHalf:
      return scale_all<c10::Half>(call);
    case Number::kBFloat16:
      return scale_all<c10::BFloat16>(call);
  }
}

template <class T>
void norm_of(const NormCall& call) {
  using Real = std::conditional_t<std::is_same_v<T, double>, double, float>;
  const Real factor = call.factor != nullptr ? static_cast<Real>(*call.factor) : Real(1);
  double sum = 0;
  bool finite = true;
  for (int64_t t = 0; t < call.tensors; ++t) {
    for (int64_t i = 0; i < call.sizes[t]; ++i) {
      const auto value = static_cast<Real>(static_cast<const T*>(call.arrays[t])[i]);
      finite = finite && value - value == 0;
      sum += static_cast<double>(value * factor) * static_cast<double>(value * factor);
    }
  }
  *static_cast<Real*>(call.norm) = static_cast<Real>(std::sqrt(sum));
  if (!finite) *call.found = 1;
}

void norm(const NormCall& call, c10::Device) {
  switch (call.number) {
    case Number::kFloat:
      return norm_of<float>(call);
    case Number::kDouble:
      return norm_of<double>(call);
    case Number::kHalf:
      return norm_of<c10::Half>(call);
    case Number::kBFloat16:
      return norm_of<c10::BFloat16>(call);
  }
}

void count_ema(const EmaDecay& decay, const EmaClock& clock, c10::Device) { clock.count(decay); }

template <class T, class G>
void follow(const EmaCall& call) {
  if (call.skip != nullptr && *call.skip != 0) return;
  const Average<T> next(*call.kept);
  for (int64_t t = 0; t < call.tensors; ++t) {
    T* const averages = static_cast<T*>(call.arrays[2 * t]);
    const G* const weights = static_cast<const G*>(call.arrays[2 * t + 1]);
    at::parallel_for(0, call.sizes[t], kGrain, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) averages[i] = next(averages[i], static_cast<T>(weights[i]));
    });
  }
}

void ema(const EmaCall& call, c10::Device) {
  if (call.average == Number::kDouble) return follow<double, double>(call);
  if (call.weight == Number::kHalf) return follow<float, c10::Half>(call);
  if (call.weight == Number::kBFloat16) return follow<float, c10::BFloat16>(call);
  follow<float, float>(call);
}

void publish(int64_t* number, int64_t* outcomes, const float* skip, float* kept, c10::Device) {
  const bool skips = skip != nullptr && *skip != 0;
  if (kept != nullptr) *kept = skips ? 1 : 0;
  outcomes[1] = skips ? 1 : 0;
  std::atomic_ref(outcomes[0]).store(++*number, std::memory_order_release);
}

}  // namespace

DeviceKernels kernels_cpu() {
  return {
      c10::kCPU, update, update, update, update, update, update, scale, norm, count_ema, ema, publish, [](c10::Device) {
        return true;
      }};
}

}  // namespace accelerate::internal::kernels

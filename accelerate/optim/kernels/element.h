#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

// The arithmetic of one element, for the CPU and for CUDA. Sums of products are written as fused multiply-adds, so that
// no compiler is left to choose: both devices round alike. Of one element `x`, x[0] is the parameter, x[1] the
// gradient, the others are its state.

#ifdef __CUDACC__
#define ACCELERATE_HOST_DEVICE __host__ __device__
#else
#define ACCELERATE_HOST_DEVICE
#endif

namespace accelerate::internal::kernels {

struct RandomWords {
  uint32_t words[4];
};

/// Philox4x32-10: the same numbers for the same place, whoever computes them, in whatever order.
/// Source: "Parallel Random Numbers: As Easy as 1, 2, 3" (Salmon et al., 2011); `at::Philox4_32`.
ACCELERATE_HOST_DEVICE inline RandomWords random_words(uint64_t seed, uint64_t place, uint64_t draw) {
  uint32_t c0 = static_cast<uint32_t>(draw), c1 = static_cast<uint32_t>(draw >> 32);
  uint32_t c2 = static_cast<uint32_t>(place), c3 = static_cast<uint32_t>(place >> 32);
  uint32_t key0 = static_cast<uint32_t>(seed), key1 = static_cast<uint32_t>(seed >> 32);
  for (int round = 0; round < 10; ++round) {
    const uint64_t a = uint64_t{0xD2511F53} * c0, b = uint64_t{0xCD9E8D57} * c2;
    c0 = static_cast<uint32_t>(b >> 32) ^ c1 ^ key0;
    c1 = static_cast<uint32_t>(b);
    c2 = static_cast<uint32_t>(a >> 32) ^ c3 ^ key1;
    c3 = static_cast<uint32_t>(a);
    key0 += 0x9E3779B9;
    key1 += 0xBB67AE85;
  }
  return {{c0, c1, c2, c3}};
}

/// Four elements of a tensor share the words of one place.
ACCELERATE_HOST_DEVICE inline uint64_t random_place(int64_t tensor, int64_t element) {
  return static_cast<uint64_t>(tensor) << 40 | static_cast<uint64_t>(element >> 2);
}

/// The bits of the bfloat16 below or above `value`; the nearer one is the likelier. A bfloat16 is itself, a NaN stays
/// one. 16 bits of `word` decide.
ACCELERATE_HOST_DEVICE inline uint16_t rounded_by_chance(float value, uint32_t word) {
  if (value != value) return 0x7FC0;
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof(bits));
  return static_cast<uint16_t>((bits + (word & 0xFFFF)) >> 16);
}

/// What follows from the count of updates, in float64 whatever the parameters are.
struct Progress {
  double first = 0;
  double second = 0;
};

/// Where weight decay goes: into the gradient (Adam), or straight into the parameter (AdamW).
enum class Decay { kGradient, kDecoupled };

/// Adam and AdamW; with `kMaximum` AMSGrad, whose third state is the largest second moment so far.
/// Source: `torch.optim.Adam`, `torch.optim.AdamW`.
template <int kMaximum>
struct Adam {
  static constexpr int kArrays = 4 + kMaximum;
  double beta1, beta2, weight_decay, eps;
  Decay decay;

  ACCELERATE_HOST_DEVICE Progress progress(double updates) const {
    return {1 - std::pow(beta1, updates), std::sqrt(1 - std::pow(beta2, updates))};
  }

  template <class T>
  struct Element {
    T beta1, share1, beta2, share2, weight_decay, eps, kept, step_size, correction;
    Decay decay;

    ACCELERATE_HOST_DEVICE void operator()(T* x) const {
      T& p = x[0];
      T g = x[1];
      if (weight_decay != 0) {
        if (decay == Decay::kDecoupled) {
          p *= kept;
        } else {
          g = std::fma(weight_decay, p, g);
        }
      }
      x[2] = std::fma(beta1, x[2], share1 * g);
      x[3] = std::fma(beta2, x[3], share2 * (g * g));
      T second = x[3];
      if constexpr (kMaximum == 1) {
        // A NaN stays one.
        if (!(second <= x[4])) x[4] = second;
        second = x[4];
      }
      const T denominator = std::sqrt(second) / correction + eps;
      p -= step_size * x[2] / denominator;
    }
  };

  template <class T>
  ACCELERATE_HOST_DEVICE Element<T> with(double lr, const Progress& progress) const {
    // Differences of float64: 1 - 0.999F is off by 1e-5. Source: the stock optimizers.
    return {static_cast<T>(beta1),
            static_cast<T>(1 - beta1),
            static_cast<T>(beta2),
            static_cast<T>(1 - beta2),
            static_cast<T>(weight_decay),
            static_cast<T>(eps),
            static_cast<T>(1 - lr * weight_decay),
            static_cast<T>(lr / progress.first),
            static_cast<T>(progress.second),
            decay};
  }
};

enum class Momentum { kPlain, kNesterov };

/// SGD; with `kBuffer` it has a momentum. The first update of a buffer is the gradient, undamped.
/// Source: `torch.optim.SGD`.
template <int kBuffer>
struct Sgd {
  static constexpr int kArrays = 2 + kBuffer;
  double momentum, dampening, weight_decay;
  Momentum kind;

  ACCELERATE_HOST_DEVICE Progress progress(double updates) const { return {updates == 1 ? 1.0 : 0.0, 0}; }

  template <class T>
  struct Element {
    T lr, momentum, share, weight_decay;
    Momentum kind;
    bool first;

    ACCELERATE_HOST_DEVICE void operator()(T* x) const {
      T g = x[1];
      if (weight_decay != 0) g = std::fma(weight_decay, x[0], g);
      if constexpr (kBuffer == 1) {
        x[2] = first ? g : std::fma(momentum, x[2], share * g);
        g = kind == Momentum::kNesterov ? std::fma(momentum, x[2], g) : x[2];
      }
      x[0] = std::fma(-lr, g, x[0]);
    }
  };

  template <class T>
  ACCELERATE_HOST_DEVICE Element<T> with(double lr, const Progress& progress) const {
    return {
        static_cast<T>(lr), static_cast<T>(momentum), static_cast<T>(1 - dampening), static_cast<T>(weight_decay), kind,
        progress.first != 0};
  }
};

/// Source: "Symbolic Discovery of Optimization Algorithms" (Chen et al., 2023), program 1.
struct Lion {
  static constexpr int kArrays = 3;
  double beta1, beta2, weight_decay;

  ACCELERATE_HOST_DEVICE Progress progress(double) const { return {}; }

  template <class T>
  struct Element {
    T lr, beta1, share1, beta2, share2, kept;

    ACCELERATE_HOST_DEVICE void operator()(T* x) const {
      const T g = x[1];
      const T direction = std::fma(beta1, x[2], share1 * g);
      // The sign, and a NaN for a NaN.
      const T sign = direction > 0 ? T(1) : direction < 0 ? T(-1) : direction * 0;
      x[0] = std::fma(-lr, sign, x[0] * kept);
      x[2] = std::fma(beta2, x[2], share2 * g);
    }
  };

  template <class T>
  ACCELERATE_HOST_DEVICE Element<T> with(double lr, const Progress&) const {
    return {static_cast<T>(lr),    static_cast<T>(beta1),     static_cast<T>(1 - beta1),
            static_cast<T>(beta2), static_cast<T>(1 - beta2), static_cast<T>(1 - lr * weight_decay)};
  }
};

/// No update at all: the parameter becomes its state.
struct Assign {
  static constexpr int kArrays = 3;

  ACCELERATE_HOST_DEVICE Progress progress(double) const { return {}; }

  template <class T>
  struct Element {
    ACCELERATE_HOST_DEVICE void operator()(T* x) const { x[0] = x[2]; }
  };

  template <class T>
  ACCELERATE_HOST_DEVICE Element<T> with(double, const Progress&) const {
    return {};
  }
};

/// How the share that averages keep becomes what it is to be.
enum class EmaRise { kNone, kWarmUp, kRamp };

/// The share that each update of averages keeps. Source: `EMAModel` of diffusers, `get_decay`.
struct EmaDecay {
  double decay = 0, min_decay = 0, inv_gamma = 1, power = 1;
  int64_t update_after_step = 0;
  EmaRise rise = EmaRise::kNone;

  /// Of update number `update`, from 1; 0 copies.
  ACCELERATE_HOST_DEVICE double of(int64_t update) const {
    const int64_t n = update - update_after_step - 1;
    if (n <= 0) return 0;
    const auto count = static_cast<double>(n);
    double share = decay;
    if (rise == EmaRise::kWarmUp) share = 1 - std::pow(1 + count / inv_gamma, -power);
    if (rise == EmaRise::kRamp) share = (1 + count) / (10 + count);
    if (share > decay) share = decay;
    return share < min_decay ? min_decay : share;
  }
};

/// One element of an average; its rounding is that of LibTorch. Source: `at::native::lerp_vec`.
template <class T>
struct Average {
  explicit ACCELERATE_HOST_DEVICE Average(double kept) : share(static_cast<T>(1 - kept)), copies(kept == 0) {}
  T share;
  bool copies;

  ACCELERATE_HOST_DEVICE T operator()(T average, T weight) const {
    if (copies) return weight;  // whatever the average was, a NaN, too
    const T way = weight - average;
    return share < T(0.5) ? std::fma(share, way, average) : std::fma(share - 1, way, weight);
  }
};

}  // namespace accelerate::internal::kernels

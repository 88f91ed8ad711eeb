#pragma once

#include <cmath>

// The arithmetic of one element, for the CPU and for CUDA. Sums of products are written as fused multiply-adds, so that
// no compiler is left to choose: both devices round alike. Of one element `x`, x[0] is the parameter, x[1] the
// gradient, the others are its state.

#ifdef __CUDACC__
#define ACCELERATE_HOST_DEVICE __host__ __device__
#else
#define ACCELERATE_HOST_DEVICE
#endif

namespace accelerate::internal::kernels {

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

}  // namespace accelerate::internal::kernels

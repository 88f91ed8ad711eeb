#include "accelerate/comm/backends/shm/reduce_kernels.h"

#include <c10/util/BFloat16.h>
#include <c10/util/Half.h>
#include <c10/util/complex.h>

#include <algorithm>
#include <concepts>
#include <cstdint>
#include <type_traits>

namespace accelerate::internal::shm {
namespace {

using Reduction = c10d::ReduceOp::RedOpType;

constexpr size_t kBlock = 1024;  // accumulators stay in the first-level cache

template <class T>
concept HalfType = std::same_as<T, c10::Half> || std::same_as<T, c10::BFloat16>;
template <class T>
concept ComplexType = std::same_as<T, c10::complex<float>> || std::same_as<T, c10::complex<double>>;
template <class T>
concept RealType = std::floating_point<T> || HalfType<T>;
template <class T>
concept IntegerType = std::integral<T> && !std::same_as<T, bool>;

template <class T>
struct Accumulator {
  using Type = T;
};
template <HalfType T>
struct Accumulator<T> {
  using Type = float;
};

template <class T, Reduction kReduction>
constexpr bool kDefined = [] {
  switch (kReduction) {
    case c10d::ReduceOp::SUM:
    case c10d::ReduceOp::PRODUCT:
      return true;
    case c10d::ReduceOp::AVG:
      return RealType<T> || ComplexType<T>;
    case c10d::ReduceOp::MIN:
    case c10d::ReduceOp::MAX:
      return !ComplexType<T>;
    default:
      return std::integral<T>;
  }
}();

// A is the accumulator's type.
template <Reduction kReduction, class A>
[[gnu::always_inline]] inline A combine(A a, A b) {
  if constexpr (std::same_as<A, bool>) {
    if constexpr (kReduction == c10d::ReduceOp::BXOR) return a != b;
    constexpr bool kAny =
        kReduction == c10d::ReduceOp::SUM || kReduction == c10d::ReduceOp::MAX || kReduction == c10d::ReduceOp::BOR;
    return kAny ? (a || b) : (a && b);
  } else if constexpr (kReduction == c10d::ReduceOp::MIN) {
    return a < b || a != a ? a : b;
  } else if constexpr (kReduction == c10d::ReduceOp::MAX) {
    return b < a || a != a ? a : b;
  } else if constexpr (kReduction == c10d::ReduceOp::BAND) {
    return static_cast<A>(a & b);
  } else if constexpr (kReduction == c10d::ReduceOp::BOR) {
    return static_cast<A>(a | b);
  } else if constexpr (kReduction == c10d::ReduceOp::BXOR) {
    return static_cast<A>(a ^ b);
  } else if constexpr (kReduction == c10d::ReduceOp::PRODUCT) {
    // Through 64 bits without a sign: wrapping is defined there.
    if constexpr (std::integral<A>)
      return static_cast<A>(static_cast<uint64_t>(a) * static_cast<uint64_t>(b));
    else
      return a * b;
  } else {
    if constexpr (std::integral<A>)
      return static_cast<A>(static_cast<uint64_t>(a) + static_cast<uint64_t>(b));
    else
      return a + b;
  }
}

template <class A>
auto real_count(size_t count) {
  if constexpr (ComplexType<A>) {
    return static_cast<typename A::value_type>(count);
  } else {
    return static_cast<A>(count);
  }
}

// The accumulators are an array of their own, which nothing else points to: the loops become vector instructions
// without a promise about the other pointers, and `out` may be a source.
template <class T, Reduction kReduction>
[[gnu::always_inline]] inline void reduce_body(T* out, const T* const* sources, size_t count, size_t elements) {
  using A = typename Accumulator<T>::Type;
  A sums[kBlock];
  for (size_t start = 0; start < elements; start += kBlock) {
    const size_t n = std::min(kBlock, elements - start);
    const T* first = sources[0] + start;
    if (count == 1) {
      for (size_t i = 0; i < n; ++i) sums[i] = static_cast<A>(first[i]);
    } else {
      const T* second = sources[1] + start;
      for (size_t i = 0; i < n; ++i)
        sums[i] = combine<kReduction, A>(static_cast<A>(first[i]), static_cast<A>(second[i]));
    }
    for (size_t source = 2; source < count; ++source) {
      const T* next = sources[source] + start;
      for (size_t i = 0; i < n; ++i) sums[i] = combine<kReduction, A>(sums[i], static_cast<A>(next[i]));
    }
    T* to = out + start;
    if constexpr (kReduction == c10d::ReduceOp::AVG) {
      const auto divisor = real_count<A>(count);
      for (size_t i = 0; i < n; ++i) to[i] = static_cast<T>(sums[i] / divisor);
    } else {
      for (size_t i = 0; i < n; ++i) to[i] = static_cast<T>(sums[i]);
    }
  }
}

template <class T, Reduction kReduction>
void reduce_plain(void* out, const void* const* sources, size_t count, size_t elements) {
  reduce_body<T, kReduction>(static_cast<T*>(out), reinterpret_cast<const T* const*>(sources), count, elements);
}

#if defined(__x86_64__)
// Chosen here and not by target_clones: its resolvers run before a sanitizer is ready.
template <class T, Reduction kReduction>
[[gnu::target("avx2")]] void reduce_avx2(void* out, const void* const* sources, size_t count, size_t elements) {
  reduce_body<T, kReduction>(static_cast<T*>(out), reinterpret_cast<const T* const*>(sources), count, elements);
}
bool has_avx2() { return __builtin_cpu_supports("avx2"); }
#endif

template <class T, Reduction kReduction>
ReduceKernel kernel() {
  if constexpr (!kDefined<T, kReduction>) {
    return nullptr;
  } else {
#if defined(__x86_64__)
    if (has_avx2()) return &reduce_avx2<T, kReduction>;
#endif
    return &reduce_plain<T, kReduction>;
  }
}

template <class T>
ReduceKernel kernel_for(Reduction reduction) {
  switch (reduction) {
    case c10d::ReduceOp::SUM:
      return kernel<T, c10d::ReduceOp::SUM>();
    case c10d::ReduceOp::AVG:
      return kernel<T, c10d::ReduceOp::AVG>();
    case c10d::ReduceOp::PRODUCT:
      return kernel<T, c10d::ReduceOp::PRODUCT>();
    case c10d::ReduceOp::MIN:
      return kernel<T, c10d::ReduceOp::MIN>();
    case c10d::ReduceOp::MAX:
      return kernel<T, c10d::ReduceOp::MAX>();
    case c10d::ReduceOp::BAND:
      return kernel<T, c10d::ReduceOp::BAND>();
    case c10d::ReduceOp::BOR:
      return kernel<T, c10d::ReduceOp::BOR>();
    case c10d::ReduceOp::BXOR:
      return kernel<T, c10d::ReduceOp::BXOR>();
    default:
      return nullptr;
  }
}

}  // namespace

ReduceKernel find_reduce_kernel(c10::ScalarType dtype, Reduction reduction) {
  switch (dtype) {
    case c10::ScalarType::Float:
      return kernel_for<float>(reduction);
    case c10::ScalarType::Double:
      return kernel_for<double>(reduction);
    case c10::ScalarType::Half:
      return kernel_for<c10::Half>(reduction);
    case c10::ScalarType::BFloat16:
      return kernel_for<c10::BFloat16>(reduction);
    case c10::ScalarType::ComplexFloat:
      return kernel_for<c10::complex<float>>(reduction);
    case c10::ScalarType::ComplexDouble:
      return kernel_for<c10::complex<double>>(reduction);
    case c10::ScalarType::Bool:
      return kernel_for<bool>(reduction);
    case c10::ScalarType::Byte:
      return kernel_for<uint8_t>(reduction);
    case c10::ScalarType::Char:
      return kernel_for<int8_t>(reduction);
    case c10::ScalarType::Short:
      return kernel_for<int16_t>(reduction);
    case c10::ScalarType::UInt16:
      return kernel_for<uint16_t>(reduction);
    case c10::ScalarType::Int:
      return kernel_for<int32_t>(reduction);
    case c10::ScalarType::UInt32:
      return kernel_for<uint32_t>(reduction);
    case c10::ScalarType::Long:
      return kernel_for<int64_t>(reduction);
    case c10::ScalarType::UInt64:
      return kernel_for<uint64_t>(reduction);
    default:
      return nullptr;
  }
}

}  // namespace accelerate::internal::shm

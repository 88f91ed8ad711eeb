// Cross entropy over rows of logits: one block a row, which reads it once in each pass, 16 bytes at a time, and
// computes in float32.
#include <c10/util/BFloat16.h>
#include <c10/util/Half.h>

#include <algorithm>
#include <cstdint>

#include "accelerate/nn/kernels/cuda.h"

namespace accelerate::internal::losses {
namespace {

constexpr int kWarp = 32;
constexpr int kMostThreads = 512;       ///< of a row; enough bytes are on their way with three such blocks
constexpr int kReducingThreads = 1024;  ///< of the one block that sums up all losses
constexpr unsigned kAllLanes = 0xFFFFFFFFU;
constexpr float kInfinity = __builtin_huge_valf();
constexpr float kLog2OfE = 1.44269504F;

__device__ float exp_of(float x) { return exp2f(x * kLog2OfE); }

/// What one instruction moves.
template <class T>
struct alignas(16) Pack {
  static constexpr int kSize = 16 / sizeof(T);
  T values[kSize];
};

/// Where packs begin is where memory is aligned: rows of an odd number of classes begin anywhere.
template <class T>
struct Split {
  int before;  ///< elements before the first pack
  int packs;
  int singles;  ///< elements before and after

  __device__ Split(const T* row, int classes) {
    const int past = static_cast<int>(reinterpret_cast<uintptr_t>(row) % sizeof(Pack<T>) / sizeof(T));
    before = min(past == 0 ? 0 : Pack<T>::kSize - past, classes);
    packs = (classes - before) / Pack<T>::kSize;
    singles = classes - packs * Pack<T>::kSize;
  }
  __device__ int first_of(int pack) const { return before + pack * Pack<T>::kSize; }
  __device__ int of_single(int i) const { return i < before ? i : i + packs * Pack<T>::kSize; }
};

/// Calls `take(p, pack)` for this thread's packs, several of which are read before the first is taken.
template <class T, class Take>
__device__ void for_each_pack(const T* row, const Split<T>& split, const Take& take) {
  constexpr int kAhead = 4;
  const auto* packs = reinterpret_cast<const Pack<T>*>(row + split.before);
  const int threads = static_cast<int>(blockDim.x);
  int p = static_cast<int>(threadIdx.x);
  for (; p < split.packs - (kAhead - 1) * threads; p += kAhead * threads) {
    Pack<T> ahead[kAhead];
#pragma unroll
    for (int a = 0; a < kAhead; ++a) ahead[a] = packs[p + a * threads];
#pragma unroll
    for (int a = 0; a < kAhead; ++a) take(p + a * threads, ahead[a]);
  }
  for (; p < split.packs; p += threads) take(p, packs[p]);
}

/// What is known of some logits of a row.
struct Seen {
  float largest;  ///< -inf: none, or nothing else
  float exps;     ///< the sum of exp(logit - largest); of exp(logit), where that is -inf
  float sum;      ///< of what they are above the row's pivot, if anybody asks

  static __device__ Seen nothing() { return {-kInfinity, 0, 0}; }
  static __device__ float origin(float largest) { return largest == -kInfinity ? 0 : largest; }

  template <int kCount>
  __device__ void take(const float (&logits)[kCount]) {
    float next = largest;
#pragma unroll
    for (int i = 0; i < kCount; ++i) next = fmaxf(next, logits[i]);
    const float from = origin(next);
    exps *= exp_of(largest - from);
#pragma unroll
    for (int i = 0; i < kCount; ++i) exps += exp_of(logits[i] - from);
    largest = next;
  }

  __device__ void take(const Seen& other) {
    const float next = fmaxf(largest, other.largest), from = origin(next);
    exps = exps * exp_of(largest - from) + other.exps * exp_of(other.largest - from);
    sum += other.sum;
    largest = next;
  }
};

__device__ Seen from_lane(const Seen& seen, int distance) {
  return {__shfl_down_sync(kAllLanes, seen.largest, distance), __shfl_down_sync(kAllLanes, seen.exps, distance),
          __shfl_down_sync(kAllLanes, seen.sum, distance)};
}

/// The first lane's is that of all.
__device__ Seen of_warp(Seen seen) {
#pragma unroll
  for (int distance = kWarp / 2; distance > 0; distance /= 2) seen.take(from_lane(seen, distance));
  return seen;
}

/// The first thread's is that of all.
__device__ Seen of_block(Seen seen) {
  __shared__ Seen of_warps[kMostThreads / kWarp];
  const int warp = static_cast<int>(threadIdx.x) / kWarp, lane = static_cast<int>(threadIdx.x) % kWarp;
  seen = of_warp(seen);
  if (lane == 0) of_warps[warp] = seen;
  __syncthreads();
  if (warp != 0) return seen;
  return of_warp(lane < static_cast<int>(blockDim.x) / kWarp ? of_warps[lane] : Seen::nothing());
}

template <class T>
__device__ const T* row_of(const Call& call, int64_t row) {
  return static_cast<const T*>(call.logits) + row * call.stride;
}

template <class T, bool kSmooths>
__global__ void __launch_bounds__(kMostThreads)
    forward_rows(const __grid_constant__ Call call, float* losses, float* normalizers) {
  const int64_t row = blockIdx.x, target = call.targets[row];
  if (target == call.ignored) {
    if (threadIdx.x == 0) losses[row] = 0;
    return;
  }
  CUDA_KERNEL_ASSERT(target >= 0 && target < call.classes && "cross_entropy: a target is none of the classes");
  const T* logits = row_of<T>(call, row);
  const Split<T> split(logits, static_cast<int>(call.classes));
  // A sum of numbers that are all large would lose the digits in which they differ.
  float pivot = kSmooths ? static_cast<float>(logits[0]) : 0;
  if (!isfinite(pivot)) pivot = 0;
  Seen seen = Seen::nothing();
  for_each_pack(logits, split, [&](int, const Pack<T>& pack) {
    float x[Pack<T>::kSize];
#pragma unroll
    for (int i = 0; i < Pack<T>::kSize; ++i) x[i] = static_cast<float>(pack.values[i]);
    seen.take(x);
    if constexpr (kSmooths) {
#pragma unroll
      for (int i = 0; i < Pack<T>::kSize; ++i) seen.sum += x[i] - pivot;
    }
  });
  for (int i = static_cast<int>(threadIdx.x); i < split.singles; i += static_cast<int>(blockDim.x)) {
    const float x[1] = {static_cast<float>(logits[split.of_single(i)])};
    seen.take(x);
    if constexpr (kSmooths) seen.sum += x[0] - pivot;
  }
  seen = of_block(seen);
  if (threadIdx.x != 0) return;
  const float log_sum = logf(seen.exps);
  // The distance first: between large numbers it is exact, and the logarithm keeps its digits.
  float loss = (seen.largest - static_cast<float>(logits[target])) + log_sum;
  if constexpr (kSmooths) {
    const float even = ((seen.largest - pivot) - seen.sum / static_cast<float>(call.classes)) + log_sum;
    loss = loss * (1 - call.smoothing) + even * call.smoothing;
  }
  losses[row] = loss;
  normalizers[row] = seen.largest;
  normalizers[call.rows + row] = log_sum;
}

/// Of all threads, in the same order every time; the first thread's is that of all.
__device__ double sum_of_block(double value) {
  __shared__ double of_warps[kReducingThreads / kWarp];
  for (int distance = kWarp / 2; distance > 0; distance /= 2) value += __shfl_down_sync(kAllLanes, value, distance);
  if (threadIdx.x % kWarp == 0) of_warps[threadIdx.x / kWarp] = value;
  __syncthreads();
  double sum = 0;
  if (threadIdx.x == 0) {
    for (const double of_warp : of_warps) sum += of_warp;
  }
  __syncthreads();
  return sum;
}

__global__ void __launch_bounds__(kReducingThreads)
    reduce_rows(const __grid_constant__ Call call, const float* losses, float* loss, float* share) {
  double sum = 0, kept = 0;
#pragma unroll 4
  for (int64_t row = threadIdx.x; row < call.rows; row += kReducingThreads) {
    sum += static_cast<double>(losses[row]);
    if (call.targets[row] != call.ignored) kept += 1;
  }
  sum = sum_of_block(sum);
  kept = sum_of_block(kept);
  if (threadIdx.x != 0) return;
  *loss = static_cast<float>(share != nullptr ? sum / kept : sum);
  if (share != nullptr) *share = static_cast<float>(1 / kept);
}

template <class T>
__global__ void __launch_bounds__(kMostThreads)
    backward_rows(const __grid_constant__ Call call, const __grid_constant__ Backward backward) {
  const int64_t row = blockIdx.x, target = call.targets[row];
  const bool ignored = target == call.ignored;
  CUDA_KERNEL_ASSERT((ignored || (target >= 0 && target < call.classes)) &&
                     "cross_entropy: a target is none of the classes");
  const T* logits = row_of<T>(call, row);
  T* out = static_cast<T*>(backward.out) + row * call.classes;
  // Nothing has been written for rows that are left out.
  const float largest = ignored ? 0 : backward.normalizers[row];
  const float log_sum = ignored ? 0 : backward.normalizers[call.rows + row];
  const float scale =
      backward.gradients[row * backward.gradient_stride] * (backward.share != nullptr ? *backward.share : 1.0F);
  const float even = call.smoothing / static_cast<float>(call.classes), rest = 1 - call.smoothing;
  const int chosen = static_cast<int>(target);
  const auto gradient = [&](int i, T logit) {
    float x = exp_of((static_cast<float>(logit) - largest) - log_sum) - even;
    if (i == chosen) x -= rest;
    return static_cast<T>(ignored ? 0.0F : x * scale);
  };
  const Split<T> split(logits, static_cast<int>(call.classes));
  // Else the logits are a view whose rows begin elsewhere than those of their gradient.
  const bool alike =
      reinterpret_cast<uintptr_t>(logits) % sizeof(Pack<T>) == reinterpret_cast<uintptr_t>(out) % sizeof(Pack<T>);
  for_each_pack(logits, split, [&](int p, Pack<T> pack) {
    const int first = split.first_of(p);
#pragma unroll
    for (int i = 0; i < Pack<T>::kSize; ++i) pack.values[i] = gradient(first + i, pack.values[i]);
    if (alike) {
      *reinterpret_cast<Pack<T>*>(out + first) = pack;
    } else {
#pragma unroll
      for (int i = 0; i < Pack<T>::kSize; ++i) out[first + i] = pack.values[i];
    }
  });
  for (int i = static_cast<int>(threadIdx.x); i < split.singles; i += static_cast<int>(blockDim.x)) {
    const int at = split.of_single(i);
    out[at] = gradient(at, logits[at]);
  }
}

/// As many as a row has packs, in whole warps.
template <class T>
int threads_for(const Call& call) {
  const int64_t packs = (call.classes + Pack<T>::kSize - 1) / Pack<T>::kSize;
  return static_cast<int>(std::clamp<int64_t>((packs + kWarp - 1) / kWarp * kWarp, kWarp, kMostThreads));
}

template <class T>
cudaError_t forward_of(const Call& call, float* losses, float* normalizers, cudaStream_t stream) {
  const auto kernel = call.smoothing > 0 ? forward_rows<T, true> : forward_rows<T, false>;
  kernel<<<static_cast<unsigned>(call.rows), threads_for<T>(call), 0, stream>>>(call, losses, normalizers);
  return cudaGetLastError();
}

template <class T>
cudaError_t backward_of(const Call& call, const Backward& backward, cudaStream_t stream) {
  backward_rows<T><<<static_cast<unsigned>(call.rows), threads_for<T>(call), 0, stream>>>(call, backward);
  return cudaGetLastError();
}

}  // namespace

cudaError_t forward_on_cuda(const Call& call, float* losses, float* normalizers, cudaStream_t stream) {
  if (call.rows == 0) return cudaSuccess;
  switch (call.number) {
    case Number::kFloat:
      return forward_of<float>(call, losses, normalizers, stream);
    case Number::kHalf:
      return forward_of<c10::Half>(call, losses, normalizers, stream);
    case Number::kBFloat16:
      return forward_of<c10::BFloat16>(call, losses, normalizers, stream);
  }
  return cudaErrorInvalidValue;
}

cudaError_t reduce_on_cuda(const Call& call, const float* losses, float* loss, float* share, cudaStream_t stream) {
  reduce_rows<<<1, kReducingThreads, 0, stream>>>(call, losses, loss, share);
  return cudaGetLastError();
}

cudaError_t backward_on_cuda(const Call& call, const Backward& backward, cudaStream_t stream) {
  if (call.rows == 0) return cudaSuccess;
  switch (call.number) {
    case Number::kFloat:
      return backward_of<float>(call, backward, stream);
    case Number::kHalf:
      return backward_of<c10::Half>(call, backward, stream);
    case Number::kBFloat16:
      return backward_of<c10::BFloat16>(call, backward, stream);
  }
  return cudaErrorInvalidValue;
}

}  // namespace accelerate::internal::losses

// The norm of many gradients and whether all of them are finite, in one pass that writes nothing; and what is made of
// that, in a pass that often is none.
#include <algorithm>

#include "accelerate/optim/kernels/table.cuh"

namespace accelerate::internal::kernels {
namespace {

constexpr int64_t kSmallestChunk = 1024;  ///< elements of one block: a multiple of every vector
constexpr int64_t kLargestChunk = 65536;
constexpr int kThreadsOfAMultiprocessor = 2048;

/// Of all threads, in the same order every time; the result is thread 0's.
__device__ double sum_of_block(double value) {
  __shared__ double of_warps[kThreads / 32];
  for (int offset = 16; offset > 0; offset /= 2) value += __shfl_down_sync(0xFFFFFFFFU, value, offset);
  if (threadIdx.x % 32 == 0) of_warps[threadIdx.x / 32] = value;
  __syncthreads();
  double sum = 0;
  if (threadIdx.x == 0) {
    for (int warp = 0; warp < kThreads / 32; ++warp) sum += of_warps[warp];
  }
  return sum;
}

template <class T>
__global__ void __launch_bounds__(kThreads)
    squares(const __grid_constant__ Table<1> table, const float* factor, double* partial, float* found) {
  using Real = typename Wide<T>::type;
  constexpr int kVector = Vector<T>::kSize;
  const Real times = factor != nullptr ? static_cast<Real>(*factor) : Real(1);
  const Place place = place_of(table, static_cast<int>(blockIdx.x));
  const T* x = static_cast<const T*>(table.arrays[place.tensor][0]) + place.begin;
  Real sum = 0;
  bool finite = true;
  const auto take = [&](T element) {
    const Real value = static_cast<Real>(element);
    finite = finite && value - value == 0;
    sum += value * times * (value * times);
  };
  const int vectors = reinterpret_cast<uintptr_t>(x) % sizeof(Vector<T>) == 0 ? place.size / kVector : 0;
  for (int v = threadIdx.x; v < vectors; v += kThreads) {
    const Vector<T> pack = reinterpret_cast<const Vector<T>*>(x)[v];
#pragma unroll
    for (int i = 0; i < kVector; ++i) take(pack.values[i]);
  }
  for (int i = vectors * kVector + static_cast<int>(threadIdx.x); i < place.size; i += kThreads) take(x[i]);
  const double all = sum_of_block(static_cast<double>(sum));
  if (threadIdx.x == 0) partial[blockIdx.x] = all;
  if (!finite) *found = 1;  // whoever writes writes the same
}

template <class Real>
__global__ void __launch_bounds__(kThreads) root(const double* partial, int64_t count, Real* norm) {
  double sum = 0;
  for (int64_t i = threadIdx.x; i < count; i += kThreads) sum += partial[i];
  sum = sum_of_block(sum);
  if (threadIdx.x == 0) *norm = static_cast<Real>(sqrt(sum));
}

template <class T>
__global__ void __launch_bounds__(kThreads) multiply(const __grid_constant__ Table<1> table, const float* factor) {
  using Real = typename Wide<T>::type;
  constexpr int kVector = Vector<T>::kSize;
  const Real times = static_cast<Real>(*factor);
  if (times == 1) return;
  const Place place = place_of(table, static_cast<int>(blockIdx.x));
  T* x = static_cast<T*>(table.arrays[place.tensor][0]) + place.begin;
  const auto product = [&](T element) { return static_cast<T>(static_cast<Real>(element) * times); };
  const int vectors = reinterpret_cast<uintptr_t>(x) % sizeof(Vector<T>) == 0 ? place.size / kVector : 0;
  for (int v = threadIdx.x; v < vectors; v += kThreads) {
    Vector<T> pack = reinterpret_cast<const Vector<T>*>(x)[v];
#pragma unroll
    for (int i = 0; i < kVector; ++i) pack.values[i] = product(pack.values[i]);
    reinterpret_cast<Vector<T>*>(x)[v] = pack;
  }
  for (int i = vectors * kVector + static_cast<int>(threadIdx.x); i < place.size; i += kThreads) x[i] = product(x[i]);
}

template <class T>
cudaError_t scale_all(const ScaleCall& call, cudaStream_t stream) {
  Blocks blocks;
  if (const cudaError_t error = blocks_on_cuda(call.sizes, call.tensors, blocks); error != cudaSuccess) return error;
  return launch_over<1>(call.sizes, call.arrays, call.tensors, blocks.chunk, [&](const auto& table, int) {
    multiply<T><<<table.first_block[table.tensors], kThreads, 0, stream>>>(table, call.factor);
  });
}

template <class T>
cudaError_t norm_of(const NormCall& call, const Blocks& blocks, double* partial, cudaStream_t stream) {
  const cudaError_t error =
      launch_over<1>(call.sizes, call.arrays, call.tensors, blocks.chunk, [&](const auto& table, int before) {
        squares<T><<<table.first_block[table.tensors], kThreads, 0, stream>>>(table, call.factor, partial + before,
                                                                              call.found);
      });
  if (error != cudaSuccess) return error;
  using Real = typename Wide<T>::type;
  root<<<1, kThreads, 0, stream>>>(partial, blocks.count, static_cast<Real*>(call.norm));
  return cudaGetLastError();
}

}  // namespace

/// Enough blocks for every multiprocessor, as long as a chunk is worth one.
cudaError_t blocks_on_cuda(const int64_t* sizes, int64_t tensors, Blocks& blocks) {
  int device = 0, multiprocessors = 0;
  cudaError_t error = cudaGetDevice(&device);
  if (error == cudaSuccess) {
    error = cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, device);
  }
  if (error != cudaSuccess) return error;
  int64_t elements = 0;
  for (int64_t t = 0; t < tensors; ++t) elements += sizes[t];
  const int64_t share = elements / (int64_t{multiprocessors} * (kThreadsOfAMultiprocessor / kThreads));
  blocks.chunk = std::clamp(share / kSmallestChunk * kSmallestChunk, kSmallestChunk, kLargestChunk);
  blocks.count = 0;
  for (int64_t t = 0; t < tensors; ++t) blocks.count += (sizes[t] + blocks.chunk - 1) / blocks.chunk;
  return cudaSuccess;
}

cudaError_t norm_on_cuda(const NormCall& call, const Blocks& blocks, double* partial, cudaStream_t stream) {
  switch (call.number) {
    case Number::kFloat:
      return norm_of<float>(call, blocks, partial, stream);
    case Number::kDouble:
      return norm_of<double>(call, blocks, partial, stream);
    case Number::kHalf:
      return norm_of<c10::Half>(call, blocks, partial, stream);
    case Number::kBFloat16:
      return norm_of<c10::BFloat16>(call, blocks, partial, stream);
  }
  return cudaErrorInvalidValue;
}

cudaError_t scale_on_cuda(const ScaleCall& call, cudaStream_t stream) {
  switch (call.number) {
    case Number::kFloat:
      return scale_all<float>(call, stream);
    case Number::kDouble:
      return scale_all<double>(call, stream);
    case Number::kHalf:
      return scale_all<c10::Half>(call, stream);
    case Number::kBFloat16:
      return scale_all<c10::BFloat16>(call, stream);
  }
  return cudaErrorInvalidValue;
}

}  // namespace accelerate::internal::kernels

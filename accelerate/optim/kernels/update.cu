// Updates of many tensors at once on CUDA. LibTorch's own kernels take a step count per tensor, a learning rate in
// float32 and chunks of 65,536 elements, which leave a GPU idle with a small model.
#include <c10/util/BFloat16.h>
#include <c10/util/Half.h>

#include <algorithm>

#include "accelerate/optim/kernels/cuda.h"

namespace accelerate::internal::kernels {
namespace {

constexpr int kThreads = 256;
constexpr int64_t kSmallestChunk = 1024;  ///< elements of one block: a multiple of every vector
constexpr int64_t kLargestChunk = 65536;
constexpr int kTensors = 96;  ///< of one launch, whose arguments are less than 6 KiB

/// The tensors of one launch; block b works on one chunk of the tensor t with first_block[t] <= b < first_block[t + 1].
template <int kArrays>
struct Table {
  void* arrays[kTensors][kArrays];
  int64_t sizes[kTensors];
  int first_block[kTensors + 1];
  int tensors = 0;
  int64_t chunk;
};

template <class T>
struct Wide {
  using type = float;
};
template <>
struct Wide<double> {
  using type = double;
};

template <class T>
struct alignas(16) Vector {
  static constexpr int kSize = 16 / sizeof(T);
  T values[kSize];
};

template <class Rule>
__global__ void count_on(Rule rule, Call call) {
  if (call.skip != nullptr && *call.skip != 0) return;
  *call.updates += 1;
  const Progress progress = rule.progress(static_cast<double>(*call.updates));
  call.progress[0] = progress.first;
  call.progress[1] = progress.second;
}

__global__ void publish(int64_t* number, volatile int64_t* outcomes, const float* skip) {
  *number += 1;
  outcomes[1] = skip != nullptr && *skip != 0 ? 1 : 0;
  __threadfence_system();
  outcomes[0] = *number;
}

/// One element in registers, from and to memory.
template <class T, class Rule>
struct Worker {
  using Real = typename Wide<T>::type;
  typename Rule::template Element<Real> element;
  Real factor;
  bool scales, skips;

  __device__ void operator()(T* const* x, int kept) const {
    Real values[Rule::kArrays];
    for (int a = 0; a < Rule::kArrays; ++a) values[a] = static_cast<Real>(x[a][kept]);
    if (scales) values[1] *= factor;
    const T gradient = static_cast<T>(values[1]);
    if (scales) values[1] = static_cast<Real>(gradient);  // what is seen of it afterwards is what was applied
    if (!skips) {
      element(values);
      for (int a = 0; a < Rule::kArrays; ++a) {
        if (a != 1) x[a][kept] = static_cast<T>(values[a]);
      }
    }
    if (scales) x[1][kept] = gradient;
  }
};

template <class T, class Rule>
__global__ void __launch_bounds__(kThreads) update(const __grid_constant__ Table<Rule::kArrays> table, Rule rule,
                                                   Call call) {
  constexpr int kArrays = Rule::kArrays;
  constexpr int kVector = Vector<T>::kSize;
  const bool skips = call.skip != nullptr && *call.skip != 0;
  const bool scales = call.factor != nullptr;
  if (skips && !scales) return;
  Progress progress;
  if (call.updates != nullptr && !skips) progress = {call.progress[0], call.progress[1]};
  using Real = typename Wide<T>::type;
  const Worker<T, Rule> work{rule.template with<Real>(*call.lr, progress),
                             scales ? static_cast<Real>(*call.factor) : Real(1), scales, skips};

  const int block = static_cast<int>(blockIdx.x);
  int tensor = 0, end = table.tensors;
  while (end - tensor > 1) {
    const int middle = (tensor + end) / 2;
    (block < table.first_block[middle] ? end : tensor) = middle;
  }
  const int64_t begin = (block - table.first_block[tensor]) * table.chunk;
  const int size = static_cast<int>(min(table.chunk, table.sizes[tensor] - begin));
  T* x[kArrays];
  bool aligned = true;
#pragma unroll
  for (int a = 0; a < kArrays; ++a) {
    x[a] = static_cast<T*>(table.arrays[tensor][a]) + begin;
    aligned = aligned && reinterpret_cast<uintptr_t>(x[a]) % sizeof(Vector<T>) == 0;
  }
  const int vectors = aligned ? size / kVector : 0;
  for (int v = threadIdx.x; v < vectors; v += kThreads) {
    Vector<T> packs[kArrays];
    T* inside[kArrays];
#pragma unroll
    for (int a = 0; a < kArrays; ++a) {
      packs[a] = reinterpret_cast<const Vector<T>*>(x[a])[v];
      inside[a] = packs[a].values;
    }
#pragma unroll
    for (int i = 0; i < kVector; ++i) work(inside, i);
#pragma unroll
    for (int a = 0; a < kArrays; ++a) {
      if (a == 1 ? scales : !skips) reinterpret_cast<Vector<T>*>(x[a])[v] = packs[a];
    }
  }
  for (int i = vectors * kVector + static_cast<int>(threadIdx.x); i < size; i += kThreads) work(x, i);
}

/// Enough blocks for every multiprocessor, as long as a chunk is worth one.
cudaError_t choose_chunk(const Call& call, int64_t& chunk) {
  int device = 0, multiprocessors = 0;
  cudaError_t error = cudaGetDevice(&device);
  if (error == cudaSuccess) {
    error = cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, device);
  }
  if (error != cudaSuccess) return error;
  int64_t elements = 0;
  for (int64_t t = 0; t < call.tensors; ++t) elements += call.sizes[t];
  const int64_t share = elements / (int64_t{multiprocessors} * (2048 / kThreads));
  chunk = std::clamp(share / kSmallestChunk * kSmallestChunk, kSmallestChunk, kLargestChunk);
  return cudaSuccess;
}

template <class T, class Rule>
cudaError_t update_all(const Rule& rule, const Call& call, cudaStream_t stream) {
  constexpr int kArrays = Rule::kArrays;
  Table<kArrays> table;
  if (const cudaError_t error = choose_chunk(call, table.chunk); error != cudaSuccess) return error;
  table.first_block[0] = 0;
  const auto launch = [&]() -> cudaError_t {
    if (table.tensors == 0) return cudaSuccess;
    update<T, Rule><<<table.first_block[table.tensors], kThreads, 0, stream>>>(table, rule, call);
    table.tensors = 0;
    return cudaGetLastError();
  };
  for (int64_t t = 0; t < call.tensors; ++t) {
    if (call.sizes[t] == 0) continue;
    const int n = table.tensors++;
    for (int a = 0; a < kArrays; ++a) table.arrays[n][a] = call.arrays[t * kArrays + a];
    table.sizes[n] = call.sizes[t];
    const int64_t chunks = (call.sizes[t] + table.chunk - 1) / table.chunk;
    table.first_block[n + 1] = table.first_block[n] + static_cast<int>(chunks);
    if (table.tensors < kTensors) continue;
    if (const cudaError_t error = launch(); error != cudaSuccess) return error;
  }
  return launch();
}

}  // namespace

template <class Rule>
cudaError_t update_on_cuda(const Rule& rule, const Call& call, cudaStream_t stream) {
  if (call.updates != nullptr) {
    count_on<<<1, 1, 0, stream>>>(rule, call);
    if (const cudaError_t error = cudaGetLastError(); error != cudaSuccess) return error;
  }
  switch (call.number) {
    case Number::kFloat:
      return update_all<float>(rule, call, stream);
    case Number::kDouble:
      return update_all<double>(rule, call, stream);
    case Number::kHalf:
      return update_all<c10::Half>(rule, call, stream);
    case Number::kBFloat16:
      return update_all<c10::BFloat16>(rule, call, stream);
  }
  return cudaErrorInvalidValue;
}

cudaError_t publish_on_cuda(int64_t* number, int64_t* outcomes, const float* skip, cudaStream_t stream) {
  publish<<<1, 1, 0, stream>>>(number, outcomes, skip);
  return cudaGetLastError();
}

template cudaError_t update_on_cuda(const Adam<0>&, const Call&, cudaStream_t);
template cudaError_t update_on_cuda(const Adam<1>&, const Call&, cudaStream_t);
template cudaError_t update_on_cuda(const Sgd<0>&, const Call&, cudaStream_t);
template cudaError_t update_on_cuda(const Sgd<1>&, const Call&, cudaStream_t);
template cudaError_t update_on_cuda(const Lion&, const Call&, cudaStream_t);

}  // namespace accelerate::internal::kernels

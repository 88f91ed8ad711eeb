// Updates of many tensors at once on CUDA. LibTorch's own kernels take a step count per tensor, a learning rate in
// float32 and chunks of 65,536 elements, which leave
// most of a GPU idle with a small model.
#include "accelerate/optim/kernels/table.cuh"

namespace accelerate::internal::kernels {
namespace {

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
__global__ void __launch_bounds__(kThreads)
    update(const __grid_constant__ Table<Rule::kArrays> table, Rule rule, Call call) {
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

  const Place place = place_of(table, static_cast<int>(blockIdx.x));
  const int size = place.size;
  T* x[kArrays];
  bool aligned = true;
#pragma unroll
  for (int a = 0; a < kArrays; ++a) {
    x[a] = static_cast<T*>(table.arrays[place.tensor][a]) + place.begin;
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

template <class T, class Rule>
cudaError_t update_all(const Rule& rule, const Call& call, cudaStream_t stream) {
  Blocks blocks;
  if (const cudaError_t error = blocks_on_cuda(call.sizes, call.tensors, blocks); error != cudaSuccess) return error;
  return launch_over<Rule::kArrays>(call.sizes, call.arrays, call.tensors, blocks.chunk, [&](const auto& table, int) {
    update<T, Rule><<<table.first_block[table.tensors], kThreads, 0, stream>>>(table, rule, call);
  });
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

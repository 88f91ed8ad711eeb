// Averages of weights on CUDA: what they keep follows from a count on the device, so that a step is the same launches
// every time.
#include <type_traits>

#include "accelerate/optim/kernels/table.cuh"

namespace accelerate::internal::kernels {
namespace {

__global__ void count_on(EmaDecay decay, EmaClock clock) { clock.count(decay); }

/// Averages of T, weights of G.
template <class T, class G>
__global__ void __launch_bounds__(kThreads)
    follow(const __grid_constant__ Table<2> table, const double* kept, const float* skip) {
  if (skip != nullptr && *skip != 0) return;
  constexpr int kVector = Vector<T>::kSize;
  using Low = Pack<G, kVector>;
  const Average<T> next(*kept);
  const Place place = place_of(table, static_cast<int>(blockIdx.x));
  T* const averages = static_cast<T*>(table.arrays[place.tensor][0]) + place.begin;
  const G* const weights = static_cast<const G*>(table.arrays[place.tensor][1]) + place.begin;
  const bool aligned = reinterpret_cast<uintptr_t>(averages) % sizeof(Vector<T>) == 0 &&
                       reinterpret_cast<uintptr_t>(weights) % sizeof(Low) == 0;
  const int vectors = aligned ? place.size / kVector : 0;
  for (int v = threadIdx.x; v < vectors; v += kThreads) {
    Vector<T> pack = reinterpret_cast<const Vector<T>*>(averages)[v];
    const Low low = reinterpret_cast<const Low*>(weights)[v];
#pragma unroll
    for (int i = 0; i < kVector; ++i) pack.values[i] = next(pack.values[i], static_cast<T>(low.values[i]));
    reinterpret_cast<Vector<T>*>(averages)[v] = pack;
  }
  for (int i = vectors * kVector + static_cast<int>(threadIdx.x); i < place.size; i += kThreads) {
    averages[i] = next(averages[i], static_cast<T>(weights[i]));
  }
}

template <class T, class G>
cudaError_t follow_all(const EmaCall& call, cudaStream_t stream) {
  Blocks blocks;
  if (const cudaError_t error = blocks_on_cuda(call.sizes, call.tensors, blocks); error != cudaSuccess) return error;
  return launch_over<2>(call.sizes, call.arrays, call.tensors, blocks.chunk, [&](const auto& table, int) {
    follow<T, G><<<table.first_block[table.tensors], kThreads, 0, stream>>>(table, call.kept, call.skip);
  });
}

}  // namespace

cudaError_t count_ema_on_cuda(const EmaDecay& decay, const EmaClock& clock, cudaStream_t stream) {
  count_on<<<1, 1, 0, stream>>>(decay, clock);
  return cudaGetLastError();
}

cudaError_t ema_on_cuda(const EmaCall& call, cudaStream_t stream) {
  if (call.average == Number::kDouble) return follow_all<double, double>(call, stream);
  if (call.weight == Number::kHalf) return follow_all<float, c10::Half>(call, stream);
  if (call.weight == Number::kBFloat16) return follow_all<float, c10::BFloat16>(call, stream);
  return follow_all<float, float>(call, stream);
}

}  // namespace accelerate::internal::kernels

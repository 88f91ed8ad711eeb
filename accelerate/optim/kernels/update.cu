// Updates of many tensors at once on CUDA. LibTorch's own kernels take a step count per tensor, a learning rate in
// float32 and chunks of 65,536 elements, which leave
// most of a GPU idle with a small model.
#include <type_traits>

#include "accelerate/optim/kernels/table.cuh"

namespace accelerate::internal::kernels {
namespace {

template <class Rule>
__global__ void count_on(Rule rule, Call call) {
  if (call.draws != nullptr) call.draws[1] += 1;
  call.averages.count(call.decay);
  if (call.updates == nullptr) return;
  if (call.skip != nullptr && *call.skip != 0) return;
  *call.updates += 1;
  const Progress progress = rule.progress(static_cast<double>(*call.updates));
  call.progress[0] = progress.first;
  call.progress[1] = progress.second;
}

__global__ void publish(int64_t* number, volatile int64_t* outcomes, const float* skip, float* kept) {
  const bool skips = skip != nullptr && *skip != 0;
  *number += 1;
  if (kept != nullptr) *kept = skips ? 1 : 0;
  outcomes[1] = skips ? 1 : 0;
  __threadfence_system();
  outcomes[0] = *number;
}

/// Whether array `a` is of the numbers that are computed with.
template <bool kRounds>
__host__ __device__ constexpr bool is_wide(int a) {
  return a != 1 && !(kRounds && a == 0);
}

/// What is there beside parameters, gradients and state.
enum class Beside { kNothing, kAverages };

template <class T, class G, class Rule, bool kRounds, Beside kBeside>
__host__ __device__ constexpr int arrays_of() {
  return Rule::kArrays + (!std::is_same_v<T, G> && !kRounds) + (kBeside == Beside::kAverages);
}

/// One element, of memory or of registers. `x` has the parameter and the state; x[1] is not looked at, and neither is
/// x[0] where parameters are rounded stochastically: then `copy` is the parameter.
template <class T, class G, class Rule, bool kRounds, Beside kBeside>
struct Worker {
  using Real = typename Wide<T>::type;
  typename Rule::template Element<Real> element;
  Real factor;
  bool scales, skips;
  Average<Real> next;
  bool follows = false;  ///< there is an average

  __device__ void operator()(T* const* x, G* gradient, G* copy, Real* average, int i, uint32_t word) const {
    Real values[Rule::kArrays];
    for (int a = 0; a < Rule::kArrays; ++a) {
      if (is_wide<kRounds>(a)) values[a] = static_cast<Real>(x[a][i]);
    }
    if constexpr (kRounds) values[0] = static_cast<Real>(copy[i]);
    values[1] = static_cast<Real>(gradient[i]);
    if (scales) {
      // What is seen of it afterwards is what was applied.
      gradient[i] = static_cast<G>(values[1] * factor);
      values[1] = static_cast<Real>(gradient[i]);
    }
    if (skips) return;
    element(values);
    for (int a = 0; a < Rule::kArrays; ++a) {
      if (is_wide<kRounds>(a)) x[a][i] = static_cast<T>(values[a]);
    }
    if constexpr (kRounds) {
      copy[i] = G(rounded_by_chance(values[0], word), G::from_bits());
    } else if constexpr (!std::is_same_v<T, G>) {
      copy[i] = static_cast<G>(values[0]);
    }
    if (kBeside == Beside::kAverages && follows) {
      // What was stored, not what it was rounded from.
      if constexpr (kRounds) {
        average[i] = next(average[i], static_cast<Real>(copy[i]));
      } else {
        average[i] = next(average[i], static_cast<Real>(x[0][i]));
      }
    }
  }
};

/// Parameters and state of T, gradients of G; where that is another, the parameters' copies are of it, too, or, if they
/// are rounded stochastically, the parameters themselves.
template <class T, class G, class Rule, bool kRounds, Beside kBeside>
__global__ void __launch_bounds__(kThreads)
    update(const __grid_constant__ Table<arrays_of<T, G, Rule, kRounds, kBeside>()> table, Rule rule, Call call) {
  constexpr int kArrays = Rule::kArrays;
  constexpr bool kCopies = !std::is_same_v<T, G>;
  constexpr bool kFollows = kBeside == Beside::kAverages;
  constexpr int kVector = Vector<T>::kSize;
  using Low = Pack<G, kVector>;
  const bool skips = call.skip != nullptr && *call.skip != 0;
  const bool scales = call.factor != nullptr;
  if (skips && !scales) return;
  Progress progress;
  if (call.updates != nullptr && !skips) progress = {call.progress[0], call.progress[1]};
  using Real = typename Wide<T>::type;
  Worker<T, G, Rule, kRounds, kBeside> work{rule.template with<Real>(*call.lr, progress),
                                            scales ? static_cast<Real>(*call.factor) : Real(1), scales, skips,
                                            Average<Real>(kFollows ? *call.averages.kept : 0)};

  const Place place = place_of(table, static_cast<int>(blockIdx.x));
  T* x[kArrays];
  bool aligned = true;
#pragma unroll
  for (int a = 0; a < kArrays; ++a) {
    if (!is_wide<kRounds>(a)) continue;
    x[a] = static_cast<T*>(table.arrays[place.tensor][a]) + place.begin;
    aligned = aligned && reinterpret_cast<uintptr_t>(x[a]) % sizeof(Vector<T>) == 0;
  }
  G* const gradient = static_cast<G*>(table.arrays[place.tensor][1]) + place.begin;
  G* copy = nullptr;
  if constexpr (kCopies) copy = static_cast<G*>(table.arrays[place.tensor][kRounds ? 0 : kArrays]) + place.begin;
  aligned = aligned && reinterpret_cast<uintptr_t>(gradient) % sizeof(Low) == 0 &&
            reinterpret_cast<uintptr_t>(copy) % sizeof(Low) == 0;
  using Followers = Pack<Real, kVector>;
  Real* average = nullptr;
  if constexpr (kFollows) {
    average = static_cast<Real*>(table.arrays[place.tensor][kArrays + (kCopies && !kRounds)]);
    work.follows = average != nullptr;
    if (work.follows) average += place.begin;
    aligned = aligned && reinterpret_cast<uintptr_t>(average) % sizeof(Followers) == 0;
  }

  uint64_t seed = 0, draw = 0;
  if constexpr (kRounds) {
    seed = static_cast<uint64_t>(call.draws[0]);
    draw = static_cast<uint64_t>(call.draws[1]);
  }
  const auto words_of = [&](int i) {
    return random_words(seed, random_place(table.numbers[place.tensor], place.begin + i), draw);
  };

  const int vectors = aligned ? place.size / kVector : 0;
  for (int v = threadIdx.x; v < vectors; v += kThreads) {
    Vector<T> packs[kArrays];
    T* inside[kArrays];
#pragma unroll
    for (int a = 0; a < kArrays; ++a) {
      if (!is_wide<kRounds>(a)) continue;
      packs[a] = reinterpret_cast<const Vector<T>*>(x[a])[v];
      inside[a] = packs[a].values;
    }
    Low gradients = reinterpret_cast<const Low*>(gradient)[v], copies;
    Followers averages;
    if (work.follows) averages = reinterpret_cast<const Followers*>(average)[v];
    RandomWords random{};
    if constexpr (kRounds) {
      static_assert(kVector == 4, "the elements of one place");
      copies = reinterpret_cast<const Low*>(copy)[v];
      random = words_of(v * kVector);
    }
#pragma unroll
    for (int i = 0; i < kVector; ++i) {
      work(inside, gradients.values, copies.values, averages.values, i, random.words[i % 4]);
    }
    if (scales) reinterpret_cast<Low*>(gradient)[v] = gradients;
    if (skips) continue;
#pragma unroll
    for (int a = 0; a < kArrays; ++a) {
      if (is_wide<kRounds>(a)) reinterpret_cast<Vector<T>*>(x[a])[v] = packs[a];
    }
    if constexpr (kCopies) reinterpret_cast<Low*>(copy)[v] = copies;
    if (work.follows) reinterpret_cast<Followers*>(average)[v] = averages;
  }
  for (int i = vectors * kVector + static_cast<int>(threadIdx.x); i < place.size; i += kThreads) {
    uint32_t word = 0;
    if constexpr (kRounds) word = words_of(i).words[i % 4];
    work(x, gradient, copy, average, i, word);
  }
}

template <class T, class G, class Rule, bool kRounds, Beside kBeside>
cudaError_t update_beside(const Rule& rule, const Call& call, cudaStream_t stream) {
  constexpr int kArrays = arrays_of<T, G, Rule, kRounds, kBeside>();
  Blocks blocks;
  if (const cudaError_t error = blocks_on_cuda(call.sizes, call.tensors, blocks); error != cudaSuccess) return error;
  return launch_over<kArrays>(call.sizes, call.arrays, call.tensors, blocks.chunk, [&](const auto& table, int) {
    update<T, G, Rule, kRounds, kBeside><<<table.first_block[table.tensors], kThreads, 0, stream>>>(table, rule, call);
  });
}

template <class T, class G, class Rule, bool kRounds = false>
cudaError_t update_all(const Rule& rule, const Call& call, cudaStream_t stream) {
  if constexpr (!std::is_same_v<Rule, Assign>) {
    if (call.averages.kept != nullptr) {
      return update_beside<T, G, Rule, kRounds, Beside::kAverages>(rule, call, stream);
    }
  }
  return update_beside<T, G, Rule, kRounds, Beside::kNothing>(rule, call, stream);
}

}  // namespace

template <class Rule>
cudaError_t update_on_cuda(const Rule& rule, const Call& call, cudaStream_t stream) {
  if (call.updates != nullptr || call.draws != nullptr || call.averages.updates != nullptr) {
    count_on<<<1, 1, 0, stream>>>(rule, call);
    if (const cudaError_t error = cudaGetLastError(); error != cudaSuccess) return error;
  }
  switch (call.number) {
    case Number::kFloat:
      if (call.draws != nullptr) return update_all<float, c10::BFloat16, Rule, true>(rule, call, stream);
      if (call.gradients == Number::kHalf) return update_all<float, c10::Half>(rule, call, stream);
      if (call.gradients == Number::kBFloat16) return update_all<float, c10::BFloat16>(rule, call, stream);
      return update_all<float, float>(rule, call, stream);
    case Number::kDouble:
      return update_all<double, double>(rule, call, stream);
    case Number::kHalf:
      return update_all<c10::Half, c10::Half>(rule, call, stream);
    case Number::kBFloat16:
      return update_all<c10::BFloat16, c10::BFloat16>(rule, call, stream);
  }
  return cudaErrorInvalidValue;
}

cudaError_t publish_on_cuda(int64_t* number, int64_t* outcomes, const float* skip, float* kept, cudaStream_t stream) {
  publish<<<1, 1, 0, stream>>>(number, outcomes, skip, kept);
  return cudaGetLastError();
}

template cudaError_t update_on_cuda(const Adam<0>&, const Call&, cudaStream_t);
template cudaError_t update_on_cuda(const Adam<1>&, const Call&, cudaStream_t);
template cudaError_t update_on_cuda(const Sgd<0>&, const Call&, cudaStream_t);
template cudaError_t update_on_cuda(const Sgd<1>&, const Call&, cudaStream_t);
template cudaError_t update_on_cuda(const Assign&, const Call&, cudaStream_t);
template cudaError_t update_on_cuda(const Lion&, const Call&, cudaStream_t);

}  // namespace accelerate::internal::kernels

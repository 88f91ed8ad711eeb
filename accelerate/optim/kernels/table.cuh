#pragma once

#include <c10/util/BFloat16.h>
#include <c10/util/Half.h>

#include "accelerate/optim/kernels/cuda.h"

// How many tensors are walked by one launch: pointers travel among the arguments of the kernel.

namespace accelerate::internal::kernels {

constexpr int kThreads = 256;
constexpr int kTensors = 96;  ///< of one launch, whose arguments are less than 7 KiB

/// Block b works on one chunk of the tensor t with first_block[t] <= b < first_block[t + 1].
template <int kArrays>
struct Table {
  void* arrays[kTensors][kArrays];
  int64_t sizes[kTensors];
  int first_block[kTensors + 1];
  int numbers[kTensors];  ///< which one of the call
  int tensors = 0;
  int64_t chunk;
};

struct Place {
  int tensor;
  int64_t begin;
  int size;
};

template <int kArrays>
__device__ Place place_of(const Table<kArrays>& table, int block) {
  int tensor = 0, end = table.tensors;
  while (end - tensor > 1) {
    const int middle = (tensor + end) / 2;
    (block < table.first_block[middle] ? end : tensor) = middle;
  }
  const int64_t begin = (block - table.first_block[tensor]) * table.chunk;
  return {tensor, begin, static_cast<int>(min(table.chunk, table.sizes[tensor] - begin))};
}

/// Calls `launch(table, blocks before it)` as often as it takes.
template <int kArrays, class Launch>
cudaError_t launch_over(const int64_t* sizes, void* const* arrays, int64_t tensors, int64_t chunk, Launch launch) {
  Table<kArrays> table;
  table.chunk = chunk;
  table.first_block[0] = 0;
  int before = 0;
  for (int64_t t = 0; t < tensors; ++t) {
    if (sizes[t] != 0) {
      const int n = table.tensors++;
      for (int a = 0; a < kArrays; ++a) table.arrays[n][a] = arrays[t * kArrays + a];
      table.sizes[n] = sizes[t];
      table.numbers[n] = static_cast<int>(t);
      table.first_block[n + 1] = table.first_block[n] + static_cast<int>((sizes[t] + chunk - 1) / chunk);
    }
    if (table.tensors == 0 || (table.tensors < kTensors && t + 1 < tensors)) continue;
    launch(table, before);
    if (const cudaError_t error = cudaGetLastError(); error != cudaSuccess) return error;
    before += table.first_block[table.tensors];
    table.tensors = 0;
  }
  return cudaSuccess;
}

template <class T>
struct Wide {
  using type = float;
};
template <>
struct Wide<double> {
  using type = double;
};

template <class T, int kCount>
struct alignas(sizeof(T) * kCount) Pack {
  static constexpr int kSize = kCount;
  T values[kCount];
};
/// What one instruction moves.
template <class T>
using Vector = Pack<T, 16 / sizeof(T)>;

}  // namespace accelerate::internal::kernels

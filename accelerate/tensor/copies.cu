#include <cstdint>

#include "accelerate/tensor/copies.h"

namespace accelerate::internal {
namespace {

constexpr int kThreads = 256;
constexpr int kCopies = 64;                  ///< of one launch
constexpr size_t kBytes = size_t{16} << 10;  ///< of one block
constexpr size_t kSmall = size_t{1} << 20;   ///< larger ones are CUDA's own

/// Block b works on a part of the copy i with first_block[i] <= b < first_block[i + 1].
struct Table {
  MemoryCopy copies[kCopies];
  int first_block[kCopies + 1];
  int count = 0;
};

template <class Word>
__device__ size_t copy_words(char* to, const char* from, size_t bytes) {
  const size_t words = bytes / sizeof(Word);
  // Told apart, several are read before the first is written: from the host each read takes a microsecond.
  Word* __restrict__ out = reinterpret_cast<Word*>(to);
  const Word* __restrict__ in = reinterpret_cast<const Word*>(from);
#pragma unroll 4
  for (size_t i = threadIdx.x; i < words; i += kThreads) out[i] = in[i];
  return words * sizeof(Word);
}

__global__ void __launch_bounds__(kThreads) copy_all(const __grid_constant__ Table table) {
  int one = 0;
  while (static_cast<int>(blockIdx.x) >= table.first_block[one + 1]) ++one;
  const size_t begin = (blockIdx.x - table.first_block[one]) * kBytes;
  const size_t bytes = min(table.copies[one].bytes - begin, kBytes);
  char* to = static_cast<char*>(table.copies[one].to) + begin;
  const char* from = static_cast<const char*>(table.copies[one].from) + begin;
  const bool aligned = (reinterpret_cast<uintptr_t>(to) | reinterpret_cast<uintptr_t>(from)) % sizeof(uint4) == 0;
  const size_t done = aligned ? copy_words<uint4>(to, from, bytes) : 0;
  copy_words<char>(to + done, from + done, bytes - done);
}

cudaError_t launch(Table& table, cudaStream_t stream) {
  if (table.count == 0) return cudaSuccess;
  copy_all<<<table.first_block[table.count], kThreads, 0, stream>>>(table);
  table.count = 0;
  return cudaGetLastError();
}

}  // namespace

cudaError_t copy_on_cuda(std::span<const MemoryCopy> copies, cudaStream_t stream) {
  Table table;
  table.first_block[0] = 0;
  for (const MemoryCopy& one : copies) {
    if (one.bytes == 0) continue;
    if (one.bytes > kSmall) {
      const cudaError_t error = cudaMemcpyAsync(one.to, one.from, one.bytes, cudaMemcpyDefault, stream);
      if (error != cudaSuccess) return error;
      continue;
    }
    table.copies[table.count] = one;
    table.first_block[table.count + 1] =
        table.first_block[table.count] + static_cast<int>((one.bytes + kBytes - 1) / kBytes);
    if (++table.count < kCopies) continue;
    if (const cudaError_t error = launch(table, stream); error != cudaSuccess) return error;
  }
  return launch(table, stream);
}

}  // namespace accelerate::internal

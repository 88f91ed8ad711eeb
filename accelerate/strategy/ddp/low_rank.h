#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <random>

namespace accelerate::internal {

/// The seeds that `numpy.random.RandomState(seed).randint(1_000_000_000)` draws one after the other.
class RandintSeeds {
 public:
  explicit RandintSeeds(uint32_t seed) : engine_(seed) {}
  uint64_t next();

 private:
  std::mt19937 engine_;
};

/// Makes the columns of each of `matrices` ([count, rows, columns], no more columns than rows) orthonormal, in place;
/// a column of zeros stays zero. Source: `powerSGD_hook._orthogonalize`.
void orthogonalize(const at::Tensor& matrices, double epsilon);

/// Whether a matrix is worth the work: what is left out is more than `rate` times what is sent.
/// Source: `powerSGD_hook._should_compress`.
struct Compression {
  int64_t rows = 0;
  int64_t columns = 0;
  int64_t rank = 0;  ///< at most rows and columns
  int64_t before() const { return rows * columns; }
  int64_t after() const { return (rows + columns) * rank; }
  bool is_worth(double rate) const { return static_cast<double>(after()) * rate < static_cast<double>(before()); }
};

}  // namespace accelerate::internal

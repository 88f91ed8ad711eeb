#pragma once

#include <torch/torch.h>

#include <filesystem>

namespace digits {

/// Images with their labels; row i of both belongs together.
struct Samples {
  at::Tensor images;  ///< (n, 1, 8, 8) float, 0 (paper) to 1 (ink)
  at::Tensor labels;  ///< (n) int64, 0 to 9
};

struct Split {
  Samples train, test;
};

/// Reads data/digits.csv.gz, or any gzipped or plain text in the format that data/README.md describes.
/// Throws accelerate::DataError with file and line when it is missing, damaged or something else.
Samples read(const std::filesystem::path& file);

/// Every fifth row, counted from the first, goes to `test` and is never trained on.
Split hold_out_every_fifth(const Samples& all);

}  // namespace digits

#pragma once

#include <torch/torch.h>

namespace benchmark_train {

// Layers without values, for `draw`: LibTorch's constructors draw on the CPU, which takes seconds for a billion.

enum class Bias { kYes, kNo };

inline torch::nn::Linear linear(at::IntArrayRef in_out, c10::Device device, Bias bias = Bias::kYes) {
  torch::nn::Linear layer(torch::nn::LinearOptions(1, 1).bias(bias == Bias::kYes));
  layer->options.in_features(in_out[0]).out_features(in_out[1]);
  layer->weight.set_data(torch::empty({in_out[1], in_out[0]}, device));
  if (bias == Bias::kYes) layer->bias.set_data(torch::empty({in_out[1]}, device));
  return layer;
}

inline torch::nn::Embedding embedding(at::IntArrayRef rows_width, c10::Device device) {
  return torch::nn::Embedding(
      torch::nn::EmbeddingOptions(rows_width[0], rows_width[1])._weight(torch::empty(rows_width, device)));
}

inline torch::nn::LayerNorm layer_norm(int64_t width, double eps) {
  return torch::nn::LayerNorm(torch::nn::LayerNormOptions({width}).eps(eps));
}

/// (samples * t, heads * d) -> (samples, heads, t, d)
inline at::Tensor split_heads(const at::Tensor& rows, int64_t samples, int64_t heads) {
  return rows.view({samples, -1, heads, rows.size(1) / heads}).transpose(1, 2);
}

/// (n, heads, t, d) -> (n * t, heads * d)
inline at::Tensor join_heads(const at::Tensor& x) { return x.transpose(1, 2).flatten(0, 1).flatten(1); }

}  // namespace benchmark_train

#include "benchmarks/train/models/models.h"

namespace benchmark_train {
namespace {

torch::nn::Conv2d convolution(at::IntArrayRef in_out, int64_t kernel, int64_t stride = 1) {
  return torch::nn::Conv2d(
      torch::nn::Conv2dOptions(in_out[0], in_out[1], kernel).stride(stride).padding(kernel / 2).bias(false));
}

struct BlockImpl : torch::nn::Module {
  BlockImpl(int64_t in, int64_t out, int64_t stride)
      : conv1(convolution({in, out}, 3, stride)), bn1(out), conv2(convolution({out, out}, 3)), bn2(out) {
    register_module("conv1", conv1);
    register_module("bn1", bn1);
    register_module("conv2", conv2);
    register_module("bn2", bn2);
    if (stride == 1) return;
    downsample->push_back(convolution({in, out}, 1, stride));
    downsample->push_back(torch::nn::BatchNorm2d(out));
    register_module("downsample", downsample);
  }

  at::Tensor forward(const at::Tensor& x) {
    const at::Tensor y = bn2(conv2(torch::relu(bn1(conv1(x)))));
    return torch::relu(y + (downsample->is_empty() ? x : downsample->forward(x)));
  }

  torch::nn::Conv2d conv1;
  torch::nn::BatchNorm2d bn1;
  torch::nn::Conv2d conv2;
  torch::nn::BatchNorm2d bn2;
  torch::nn::Sequential downsample;
};
TORCH_MODULE(Block);

torch::nn::Sequential stage(at::IntArrayRef in_out, int64_t stride) {
  torch::nn::Sequential blocks;
  blocks->push_back(Block(in_out[0], in_out[1], stride));
  blocks->push_back(Block(in_out[1], in_out[1], 1));
  return blocks;
}

struct Resnet18 final : LogitsNet {
  explicit Resnet18(const ResnetShape& shape)
      : conv1(convolution({3, shape.width}, 3)),
        bn1(shape.width),
        layer1(stage({shape.width, shape.width}, 1)),
        layer2(stage({shape.width, 2 * shape.width}, 2)),
        layer3(stage({2 * shape.width, 4 * shape.width}, 2)),
        layer4(stage({4 * shape.width, 8 * shape.width}, 2)),
        fc(8 * shape.width, shape.classes) {
    register_module("conv1", conv1);
    register_module("bn1", bn1);
    register_module("layer1", layer1);
    register_module("layer2", layer2);
    register_module("layer3", layer3);
    register_module("layer4", layer4);
    register_module("fc", fc);
  }

  at::Tensor forward(const at::Tensor& inputs) override {
    const at::Tensor x = torch::relu(bn1(conv1(inputs.contiguous(at::MemoryFormat::ChannelsLast))));
    return fc(layer4->forward(layer3->forward(layer2->forward(layer1->forward(x)))).mean({2, 3}));
  }

  torch::nn::Conv2d conv1;
  torch::nn::BatchNorm2d bn1;
  torch::nn::Sequential layer1, layer2, layer3, layer4;
  torch::nn::Linear fc;
};

}  // namespace

std::shared_ptr<LogitsNet> resnet18(const ResnetShape& shape, c10::Device device) {
  auto net = std::make_shared<Resnet18>(shape);
  net->to(device);
  for (at::Tensor& parameter : net->parameters()) {
    if (parameter.dim() == 4) parameter.set_data(parameter.detach().contiguous(at::MemoryFormat::ChannelsLast));
  }
  return net;
}

}  // namespace benchmark_train

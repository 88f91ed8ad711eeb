#include <cstdint>
#include <vector>

#include "accelerate/step/captures/memsets.h"

namespace accelerate::internal {
namespace {

constexpr int kThreads = 256;
constexpr size_t kMostBytes = size_t{64} << 10;

template <class Word>
__global__ void __launch_bounds__(kThreads) set(Word* words, Word value, size_t count) {
  for (size_t i = threadIdx.x; i < count; i += kThreads) words[i] = value;
}

/// The nodes at the other ends of a node's edges.
struct Edges {
  std::vector<cudaGraphNode_t> nodes;
  std::vector<cudaGraphEdgeData> data;
};

template <class Get>
cudaError_t edges_of(cudaGraphNode_t node, Get get, Edges& edges) {
  size_t count = 0;
  if (const cudaError_t error = get(node, nullptr, nullptr, &count); error != cudaSuccess) return error;
  edges.nodes.resize(count);
  edges.data.resize(count);
  return count == 0 ? cudaSuccess : get(node, edges.nodes.data(), edges.data.data(), &count);
}

template <class Word>
cudaError_t add_kernel(cudaGraph_t graph, const cudaMemsetParams& memset, cudaGraphNode_t& node) {
  auto* words = static_cast<Word*>(memset.dst);
  Word value = static_cast<Word>(memset.value);
  size_t count = memset.width;
  void* arguments[] = {&words, &value, &count};
  cudaKernelNodeParams kernel{};
  kernel.func = reinterpret_cast<void*>(&set<Word>);
  kernel.gridDim = dim3(1);
  kernel.blockDim = dim3(kThreads);
  kernel.kernelParams = arguments;
  return cudaGraphAddKernelNode(&node, graph, nullptr, 0, &kernel);
}

cudaError_t replace(cudaGraph_t graph, cudaGraphNode_t node, const cudaMemsetParams& memset) {
  Edges before, after;
  cudaError_t error = edges_of(node, cudaGraphNodeGetDependencies, before);
  if (error == cudaSuccess) error = edges_of(node, cudaGraphNodeGetDependentNodes, after);
  cudaGraphNode_t kernel = nullptr;
  if (error == cudaSuccess) {
    error = memset.elementSize == 1   ? add_kernel<uint8_t>(graph, memset, kernel)
            : memset.elementSize == 2 ? add_kernel<uint16_t>(graph, memset, kernel)
                                      : add_kernel<uint32_t>(graph, memset, kernel);
  }
  if (error == cudaSuccess && !before.nodes.empty()) {
    const std::vector<cudaGraphNode_t> ends(before.nodes.size(), kernel);
    error = cudaGraphAddDependencies(graph, before.nodes.data(), ends.data(), before.data.data(), ends.size());
  }
  if (error == cudaSuccess && !after.nodes.empty()) {
    const std::vector<cudaGraphNode_t> begins(after.nodes.size(), kernel);
    error = cudaGraphAddDependencies(graph, begins.data(), after.nodes.data(), after.data.data(), begins.size());
  }
  return error == cudaSuccess ? cudaGraphDestroyNode(node) : error;
}

}  // namespace

cudaError_t memsets_as_kernels(cudaGraph_t graph) {
  size_t count = 0;
  if (const cudaError_t error = cudaGraphGetNodes(graph, nullptr, &count); error != cudaSuccess) return error;
  std::vector<cudaGraphNode_t> nodes(count);
  if (count == 0) return cudaSuccess;
  if (const cudaError_t error = cudaGraphGetNodes(graph, nodes.data(), &count); error != cudaSuccess) return error;
  for (const cudaGraphNode_t node : nodes) {
    cudaGraphNodeType type;
    if (const cudaError_t error = cudaGraphNodeGetType(node, &type); error != cudaSuccess) return error;
    if (type != cudaGraphNodeTypeMemset) continue;
    cudaMemsetParams memset{};
    if (const cudaError_t error = cudaGraphMemsetNodeGetParams(node, &memset); error != cudaSuccess) return error;
    if (memset.height > 1 || memset.width * memset.elementSize > kMostBytes) continue;
    if (const cudaError_t error = replace(graph, node, memset); error != cudaSuccess) return error;
  }
  return cudaSuccess;
}

}  // namespace accelerate::internal

// In builds without CUDA; cuda/plain_graph.cpp otherwise.
#ifndef BENCHMARK_WITH_CUDA
#include "benchmarks/train/plain_graph.h"

#include <stdexcept>

namespace benchmark_train {

struct PlainGraph::Captured {};

PlainGraph::PlainGraph(c10::Device) { throw std::invalid_argument("--graph: this build has no CUDA"); }
PlainGraph::~PlainGraph() = default;
at::Tensor PlainGraph::run(const Body&, const Samples&, const at::Tensor&, int64_t) { return {}; }

}  // namespace benchmark_train
#endif

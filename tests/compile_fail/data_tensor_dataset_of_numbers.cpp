// expect: TensorDataset takes one or more tensors
#include "accelerate/data/datasets/tensor_dataset.h"

int main() { accelerate::TensorDataset dataset(at::Tensor(), 3); }

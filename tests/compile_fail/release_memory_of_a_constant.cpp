// expect: release_memory\(\) empties its arguments
#include "accelerate/accelerate.h"

void use(const at::Tensor& tensor) { accelerate::release_memory(tensor); }

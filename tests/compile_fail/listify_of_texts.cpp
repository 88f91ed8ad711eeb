// expect: listify<To>\(\) gives numbers or nested vectors of numbers
#include "accelerate/accelerate.h"

void use(const at::Tensor& tensor) { accelerate::listify<std::vector<std::string>>(tensor); }

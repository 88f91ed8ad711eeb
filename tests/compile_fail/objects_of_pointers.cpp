// expect: values of this type cannot be turned into bytes
#include "accelerate/accelerate.h"

void use(const accelerate::Accelerator& accelerator, int* number) {
  accelerator.gather_object(std::vector<int*>{number});
}

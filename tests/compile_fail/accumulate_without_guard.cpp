// expect: keep the guard: `auto window = accelerator.accumulate\(model\);`
#include "accelerate/accelerate.h"

#pragma GCC diagnostic error "-Wunused-result"
#pragma GCC diagnostic error "-Wunused-value"

struct Net;

void use(accelerate::Accelerator& accelerator, const accelerate::Model<Net>& model) { accelerator.accumulate(model); }

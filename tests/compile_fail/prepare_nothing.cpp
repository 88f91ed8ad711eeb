// expect: prepare\(\) takes at least one object
#include "accelerate/accelerate.h"

void use(accelerate::Accelerator& accelerator) { accelerator.prepare(); }

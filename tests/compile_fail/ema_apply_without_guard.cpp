// expect: keep the guard: `auto weights = ema.apply\(\);`
#include "accelerate/accelerate.h"

#pragma GCC diagnostic error "-Wunused-result"
#pragma GCC diagnostic error "-Wunused-value"

void use(accelerate::Ema& ema) { ema.apply(); }

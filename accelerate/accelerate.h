// Everything a training program needs; includes only.
#pragma once

#include "accelerate/accelerator.h"
#include "accelerate/core/error.h"
#include "accelerate/data/datasets/tensor_dataset.h"
#include "accelerate/data/loader.h"
#include "accelerate/launch.h"
#include "accelerate/local_sgd.h"
#include "accelerate/optim/ema.h"
#include "accelerate/optim/schedules.h"
#include "accelerate/strategy/ddp.h"
#include "accelerate/tensor/batch.h"
#include "accelerate/tensor/convert.h"
#include "accelerate/tensor/memory.h"
#include "accelerate/tensor/seed.h"
#include "accelerate/tensor/shape.h"

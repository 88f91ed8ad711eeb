"""The public names of the original: what a user who ports by memory looks for."""

import dataclasses
import inspect


def _public(cls):
    return sorted(name for name in dir(cls) if not name.startswith("_"))


def document():
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState, GradientState, PartialState
    from accelerate.utils import DataLoaderConfiguration, GradientAccumulationPlugin, ProjectConfiguration

    def fields(cls):
        return sorted(field.name for field in dataclasses.fields(cls))

    return {
        "constructor": list(inspect.signature(Accelerator.__init__).parameters)[1:],
        "accelerator": _public(Accelerator),
        "states": sorted({*_public(PartialState), *_public(AcceleratorState), *_public(GradientState)}),
        "options": {
            cls.__name__: fields(cls)
            for cls in (DataLoaderConfiguration, GradientAccumulationPlugin, ProjectConfiguration)
        },
    }

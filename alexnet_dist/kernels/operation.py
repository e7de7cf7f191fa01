"""An operation of torch's dispatcher, which differs from device to device and passes meta tensors.

It is what torch.library.custom_op gives, of the functions that this is made of: at the first call of an operation, custom_op
imports torch's compiler, which takes longer than all else that a process imports.
"""

from collections.abc import Callable
from functools import partial
from importlib import import_module
from typing import Any

import torch

Kernel = Callable[..., Any]


class Operation:
    """`name` is as in "alexnet::follow"; the annotations of `signature` say what it takes and gives (torch.library.infer_schema).

    `register_fake` and `register_autograd` are torch.library's.
    """

    def __init__(self, name: str, signature: Kernel, mutates_args: tuple[str, ...] = ()) -> None:
        torch.library.define(name, torch.library.infer_schema(signature, mutates_args=mutates_args))
        self.__doc__ = signature.__doc__
        self._name = name
        self._kernels: dict[str, Kernel] = {}
        namespace, own_name = name.split("::")
        self._call = getattr(getattr(torch.ops, namespace), own_name).default
        self.register_fake = partial(torch.library.register_fake, name)
        self.register_autograd = partial(torch.library.register_autograd, name)

    def __call__(self, *given: Any) -> Any:
        return self._call(*given)

    def register_kernel(self, device_type: str) -> Callable[[Kernel], Kernel]:
        """Of tensors of that device the operation is the decorated function, in the place of one that was so before."""

        def register(kernel: Kernel) -> Kernel:
            if device_type not in self._kernels:
                torch.library.impl(self._name, device_type, lambda *given: self._kernels[device_type](*given))
            self._kernels[device_type] = kernel
            return kernel

        return register


def on_gpus(name: str, kernel: str) -> Callable[[Kernel], Operation]:
    """The operation that is `of_cuda(kernel)` on GPUs, and the decorated function where tensors hold nothing."""

    def make(fake: Kernel) -> Operation:
        operation = Operation(name, fake)
        operation.register_fake(fake)
        operation.register_kernel("cuda")(of_cuda(kernel))
        return operation

    return make


def of_cuda(kernel: str) -> Kernel:
    """A function of kernels/cuda, by its module and its name; imported when it is called, for Triton is not everywhere."""
    module, _, name = kernel.partition(".")
    return lambda *given: getattr(import_module(f"alexnet_dist.kernels.cuda.{module}"), name)(*given)

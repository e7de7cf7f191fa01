"""The blobs of a .caffemodel, read by Google's protobuf from the few fields of caffe.proto that carry them."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from google.protobuf.descriptor_pb2 import DescriptorProto, FieldDescriptorProto, FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import DecodeError
from google.protobuf.message_factory import GetMessageClass

_FLOAT, _INT64, _INT32, _STRING, _MESSAGE = (
    FieldDescriptorProto.TYPE_FLOAT,
    FieldDescriptorProto.TYPE_INT64,
    FieldDescriptorProto.TYPE_INT32,
    FieldDescriptorProto.TYPE_STRING,
    FieldDescriptorProto.TYPE_MESSAGE,
)
# (field, number, type, message) as in src/caffe/proto/caffe.proto; `layers` holds the layers of files from before mid-2014.
_MESSAGES: dict[str, list[tuple[str, int, Any, str | None]]] = {
    "BlobShape": [("dim", 1, _INT64, None)],
    "BlobProto": [
        ("data", 5, _FLOAT, None),
        ("shape", 7, _MESSAGE, "BlobShape"),
        ("num", 1, _INT32, None),
        ("channels", 2, _INT32, None),
        ("height", 3, _INT32, None),
        ("width", 4, _INT32, None),
    ],
    "LayerParameter": [("name", 1, _STRING, None), ("blobs", 7, _MESSAGE, "BlobProto")],
    "V1LayerParameter": [("name", 4, _STRING, None), ("blobs", 6, _MESSAGE, "BlobProto")],
    "NetParameter": [("layer", 100, _MESSAGE, "LayerParameter"), ("layers", 2, _MESSAGE, "V1LayerParameter")],
}
_REPEATED = {"dim", "data", "blobs", "layer", "layers"}


def read_caffemodel(path: Path) -> dict[str, torch.Tensor]:
    """`<layer>.weight` and `<layer>.bias` of every layer that has them, float32, shaped as the file says.

    Old files shape all blobs with four numbers; leading ones of full connections and biases are taken away.

    Raises:
        ValueError: the bytes are no such file.
    """
    net = _parse("NetParameter", path)
    found: dict[str, torch.Tensor] = {}
    for layer in (*net.layer, *net.layers):
        for part, blob in zip(("weight", "bias"), layer.blobs, strict=False):
            found[f"{layer.name}.{part}"] = _tensor(blob, least_dimensions=1 if part == "bias" else 2)
    return found


def read_mean(path: Path) -> torch.Tensor:
    """The image of a .binaryproto, float32 [3, H, W]. Raises ValueError where the bytes are no such file."""
    return _tensor(_parse("BlobProto", path), least_dimensions=3)


def _tensor(blob: Any, least_dimensions: int) -> torch.Tensor:
    shape = list(blob.shape.dim)
    if not blob.HasField("shape"):
        shape = [blob.num, blob.channels, blob.height, blob.width]
        while len(shape) > least_dimensions and shape[0] == 1:
            shape.pop(0)
    return torch.from_numpy(np.array(blob.data, np.float32)).reshape(shape)


def _parse(kind: str, path: Path) -> Any:
    message = _message(kind)()
    try:
        message.ParseFromString(path.read_bytes())
    except DecodeError as error:
        raise ValueError(error) from None
    return message


def _message(name: str) -> Any:
    file = FileDescriptorProto(name="caffe.proto", package="caffe", syntax="proto2")
    for message, fields in _MESSAGES.items():
        described = DescriptorProto(name=message)
        for field, number, kind, of in fields:
            described.field.append(
                FieldDescriptorProto(
                    name=field,
                    number=number,
                    type=kind,
                    type_name=f".caffe.{of}" if of else None,
                    label=FieldDescriptorProto.LABEL_REPEATED if field in _REPEATED else FieldDescriptorProto.LABEL_OPTIONAL,
                )
            )
        file.message_type.append(described)
    pool = DescriptorPool()
    pool.Add(file)
    return GetMessageClass(pool.FindMessageTypeByName(f"caffe.{name}"))

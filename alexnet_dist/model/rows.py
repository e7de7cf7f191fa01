"""What the rows of conf/model/*.yaml may say: the net's own keys, its operations and its layers, each checked alone."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from alexnet_dist.errors import UserError

Positive = Annotated[int, Field(ge=1)]
NotNegative = Annotated[int, Field(ge=0)]


class Row(BaseModel):
    model_config = ConfigDict(strict=True, frozen=True, extra="forbid", allow_inf_nan=False)


class OperationRow(Row):
    kind: str

    @model_validator(mode="before")
    @classmethod
    def _pass_over_other_kinds(cls, row: dict[str, Any]) -> dict[str, Any]:
        """An override that only changes the kind (lrn -> identity, relu -> tanh) leaves the old kind's keys behind."""
        others = {key for kind in _OPERATIONS for key in kind.model_fields} - set(cls.model_fields)
        return {key: value for key, value in row.items() if key not in others}


class Activation(OperationRow):
    kind: Literal["relu", "tanh", "sigmoid", "identity"]


def _odd(size: int) -> int:
    if size % 2 == 0:
        raise ValueError("a window around a map or pixel has an odd size")
    return size


class Norm(OperationRow):
    kind: Literal["response_norm", "spatial_norm"]
    size: Annotated[Positive, AfterValidator(_odd)]
    alpha: float
    beta: float
    k: float
    reads: Literal["own", "all"] = "own"


class Pool(OperationRow):
    kind: Literal["max_pool", "avg_pool"]
    kernel: Positive
    stride: Positive
    pad: NotNegative = 0
    round: Literal["down", "up"] = "down"

    @model_validator(mode="after")
    def _every_window_meets_the_map(self) -> Self:
        if 2 * self.pad > self.kernel:
            raise ValueError(f"has pad {self.pad}, more than half its kernel {self.kernel}")
        return self


class Dropout(OperationRow):
    kind: Literal["dropout"]
    p: Annotated[float, Field(ge=0, lt=1)]


_OPERATIONS = (Activation, Norm, Pool, Dropout)


class LayerRow(Row):
    reads: Literal["image", "own", "all"]
    filters: Positive
    then: list[str] = []
    weight_std: Annotated[float, Field(ge=0)] | Literal["he"]
    bias: float


class Convolution(LayerRow):
    kind: Literal["conv"]
    kernel: Positive
    stride: Positive = 1
    pad: NotNegative = 0
    pad_end: NotNegative | None = None


class FullyConnected(LayerRow):
    kind: Literal["fc"]


class Model(Row):
    name: str = "unnamed"
    towers: Positive
    input: Positive
    operations: dict[str, Annotated[Activation | Norm | Pool | Dropout, Field(discriminator="kind")]]
    layers: Annotated[dict[str, Annotated[Convolution | FullyConnected, Field(discriminator="kind")]], Field(min_length=1)]

    @field_validator("layers", mode="before")
    @classmethod
    def _leave_out_null(cls, rows: Any) -> Any:
        return {name: row for name, row in rows.items() if row is not None} if isinstance(rows, Mapping) else rows


def read_rows(config: Mapping[str, Any]) -> Model:
    """The rows of a composed `model` group. Raises UserError where a key is unknown or missing, or a value of the wrong kind."""
    try:
        return Model.model_validate(config)
    except ValidationError as error:
        raise UserError(f"model: {_sentence(error)}") from None


def _sentence(error: ValidationError) -> str:
    """The first thing that is wrong, by the name of its layer or operation."""
    first = error.errors()[0]
    # The key of the model; or the group, the name, the kind once that is known, and the key of the row.
    group, name, kind, key, *_ = (*first["loc"], None, None, None, None)
    where = "the model" if name is None else f"{str(group).removesuffix('s')} {name}"
    key = group if name is None else key
    match first["type"]:
        case "missing" | "union_tag_not_found":
            return f"{where} needs {key or 'kind'}"
        case "union_tag_invalid":
            return f"{where} has kind {first['ctx']['tag']!r}: known are {first['ctx']['expected_tags']}"
        case "extra_forbidden":
            rows: dict[Any, tuple[type[Row], ...]] = {None: (Model,), "conv": (Convolution,), "fc": (FullyConnected,)}
            known = sorted({name for row in rows.get(kind, _OPERATIONS) for name in row.model_fields})
            return f"{where} has the unknown key {key!r}: known are {', '.join(known)}"
    if key is None and first["type"] != "value_error":
        return f"{where} is {first['input']!r} and not a set of keys"
    message = str(first["ctx"]["error"]) if first["type"] == "value_error" else first["msg"][0].lower() + first["msg"][1:]
    return f"{where} {message}" if key is None else f"{where} has {key} {first['input']!r}: {message}"

"""What a configuration may say: typed and bounded. conf/ says what each setting is, checks.py what they have to do with one
another."""

from collections.abc import Mapping
from dataclasses import field
from typing import Annotated, Any, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from alexnet_dist.fields import AboveZero, FilePath, Fraction, NotNegative, Pixels, Positive, PowerOfTwo, Threads, strict
from alexnet_dist.model.table import Table, build_table


@dataclass(frozen=True, config=strict)
class RunSettings:
    """`overrides` are noted by the command: what was said on its command line."""

    dir: FilePath | None
    report: bool = True
    overrides: tuple[str, ...] = ()


@dataclass(frozen=True, config=strict)
class OtherImages:
    """The images that a command on a run takes; what is null is as the run was trained."""

    root: FilePath | None = None
    val_every: int | None = None
    threads: Threads | None = None

    def in_place_of(self, data: Mapping[str, Any]) -> dict[str, Any]:
        """A run's `data` settings with these in their place. Another root may hold files or a packed set."""
        given = {key: value for key, value in vars(self).items() if value is not None}
        return {**data, **given, "source": "auto" if self.root else data["source"]}


@dataclass(frozen=True, config=strict)
class DataSettings:
    """Where the images are and how a sample is cropped from them (paper, section 2 and 4.1)."""

    source: Literal["quickstart", "auto", "imagefolder", "packed"]
    root: FilePath | None
    val_every: Annotated[int, Field(ge=2)] | None
    size: Pixels
    mirror: bool
    colour: bool
    share_decoding: bool
    threads: Threads | None
    statistics_images: Positive
    hardware_decoder: Annotated[float, Field(ge=0, le=1)] | None = None
    device_memory_padding: Positive | None = None
    host_memory_padding: Positive | None = None
    mean: Literal["aligned", "centre"] = "aligned"
    colour_divisor: Annotated[float, Field(ge=1)] = 1.0
    on_bad: Literal["stop", "skip"] = "stop"
    max_bad: Fraction = 0.001


@dataclass(frozen=True, config=strict)
class LayerRates:
    """What a layer's update has of its own: factors of the rates that its weights and biases (as its weights, unless said) would
    have, and values in place of the net's momentum and weight decay. A layer that is frozen has no update, decay included.
    """

    lr: AboveZero | None = None
    bias_lr: AboveZero | None = None
    momentum: Fraction | None = None
    bias_momentum: Fraction | None = None
    weight_decay: NotNegative | None = None
    freeze: bool | None = None


@dataclass(frozen=True, config=strict)
class OptimizerSettings:
    """v <- momentum * v - lr * (gradient + weight_decay * w); w <- w + v (paper, section 5).

    `lars` multiplies the lr of each weight with `trust` * |w| / (|gradient| + weight_decay * |w|); biases take plain steps.
    `layers` are those with an update of their own, by name.
    """

    lr: AboveZero
    momentum: Fraction
    weight_decay: NotNegative
    bias_lr_multiplier: AboveZero
    bias_weight_decay: bool
    kind: Literal["sgd", "lars"] = "sgd"
    trust: AboveZero = 0.001
    layers: dict[str, LayerRates] = field(default_factory=dict)


@dataclass(frozen=True, config=strict)
class Phase:
    """What changes when `epoch` epochs are done (fractions allowed). What it does not say stays as it was.

    `lr` and `bias_lr` are factors of the rates that the schedule's kind gives to weights and to biases (as to weights, unless
    said); `colour: false` turns the colour noise off; `layers` are as those of the optimizer.
    """

    epoch: NotNegative = 0.0
    lr: AboveZero | None = None
    bias_lr: AboveZero | None = None
    colour: bool | None = None
    layers: dict[str, LayerRates] = field(default_factory=dict)


@dataclass(frozen=True, config=strict)
class ScheduleSettings:
    """How the learning rate falls: multiplied by `factor` on a plateau of the validation error, at most `reductions` times, or at
    certain epochs (fractions allowed). `phases`, in the order of their epochs, change what the optimizer does with that rate.
    """

    kind: Literal["plateau", "steps", "constant", "polynomial"]
    factor: Annotated[float, Field(gt=0, lt=1)] = 0.1
    patience: Positive = 3
    reductions: Annotated[int, Field(ge=0)] = 3
    at_epochs: tuple[Annotated[float, Field(gt=0)], ...] = ()
    power: Annotated[float, Field(gt=0)] = 2.0
    epochs: Annotated[float, Field(gt=0)] | None = None
    warmup_epochs: NotNegative = 0.0
    warmup_from: Annotated[float, Field(ge=0, le=1)] = 0.1
    phases: tuple[Phase, ...] = ()


@dataclass(frozen=True, config=strict)
class PrecisionSettings:
    """`fp32`, `tf32` (CUDA only: fp32 storage, TF32 products) or `bf16` (products and maps; parameters stay fp32)."""

    kind: Literal["fp32", "tf32", "bf16"]


@dataclass(frozen=True, config=strict)
class ParallelSettings:
    """With `threads: auto` a tower has as many whoever holds it, so that one process adds in the same order as two and ends with
    the same bits."""

    processes: Positive | Literal["auto"]
    threads: Threads | Literal["auto"]
    timeout: Annotated[float, Field(gt=0)]
    max_restarts: Annotated[int, Field(ge=0)]
    wire: Literal["auto", "fp32", "bf16"]
    overlap: bool
    jobs: Positive = 1
    spread: bool = False


@dataclass(frozen=True, config=strict)
class TrainerSettings:
    """The gradients of the `slices` of a batch, runs of consecutive images, are added in a fixed binary tree."""

    epochs: Positive
    max_steps: Positive | None
    batch_size: Positive
    log_every: Positive
    validate_every: Positive
    on_nan: Literal["stop", "skip"]
    native: Literal["auto", "on", "off"]
    graph: Literal["auto", "off"]
    deterministic: bool
    profile: tuple[Positive, Positive] | None
    stop_at_training_error: Annotated[float, Field(gt=0, lt=1)] | None = None
    slices: PowerOfTwo = 1


@dataclass(frozen=True, config=strict)
class EvaluationSettings:
    """The evaluation that closes a run (paper, section 4.1); `batch_size` images over all replicas."""

    views: Literal[1, 10]
    batch_size: Positive


@dataclass(frozen=True, config=strict)
class CheckpointSettings:
    every: Positive | None
    minutes: Annotated[float, Field(gt=0)] | None
    keep: Positive


@dataclass(frozen=True, config=strict)
class TrackingSettings:
    """`wandb` records the run with W&B beside metrics.jsonl; `none` does not touch W&B."""

    kind: Literal["wandb", "none"]
    project: str | None = None
    entity: str | None = None
    group: str | None = None
    name: str | None = None
    tags: tuple[str, ...] = ()
    activity: bool = False
    job_type: str | None = None
    artifacts: bool = False
    objective: Literal["top1_error", "top5_error", "loss"] = "top1_error"


@dataclass(frozen=True, config=strict)
class Settings:
    """A composed and checked configuration. `model` is the table's rows; `table()` is what they make."""

    seed: Annotated[int, Field(ge=0, lt=2**31)]
    device: Literal["auto", "cpu", "cuda"]
    resume: FilePath
    run: RunSettings
    model: dict[str, Any]
    data: DataSettings
    optimizer: OptimizerSettings
    schedule: ScheduleSettings
    precision: PrecisionSettings
    parallel: ParallelSettings
    trainer: TrainerSettings
    evaluation: EvaluationSettings
    checkpoint: CheckpointSettings
    tracking: TrackingSettings
    resume_allow: tuple[Literal["seed", "model", "data"], ...] = ()
    init_from: FilePath | None = None
    init_layers: Annotated[tuple[str, ...], Field(min_length=1)] | None = None
    experiment: str | None = None

    def table(self) -> Table:
        return build_table(self.model)

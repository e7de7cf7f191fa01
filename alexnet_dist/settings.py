"""What a configuration may say: typed and bounded. checks.py asks what its fields have to do with one another."""

from collections.abc import Mapping
from dataclasses import field
from typing import Annotated, Any, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from alexnet_dist.fields import AboveZero, FilePath, Fraction, NotNegative, Pixels, Positive, PowerOfTwo, Threads, strict
from alexnet_dist.model.table import Table, build_table


@dataclass(frozen=True, config=strict)
class RunSettings:
    """`dir` is the run's folder; without one it is named under runs/ after the time and the model.

    With `report` a run that ends leaves figures/ and report.html in it. `overrides` are noted by the command: what was said on
    its command line.
    """

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
    """Where the images are and how a sample is cropped from them (paper, section 2 and 4.1).

    `size` is the pixels of the short side before the crop; the crop is the model's input. `threads` are DALI's, for each
    process (null: the cores shared out). `statistics_images` bounds how many images the mean image is taken over.

    On a GPU (null: as DALI has it) `hardware_decoder` is the share of JPEGs that its decoding unit takes, and the memory paddings
    are the bytes that each decoding thread holds from the start, so that none is taken in mid-run.

    `on_bad` is what becomes of a training image that cannot be read or decoded: it stops the run, or the next of the epoch's
    order takes its place; more than the share `max_bad` of all stop it too.

    `mean` is what of the mean image a crop has subtracted: the part that it lies on, or the centre crop. Training images with
    colour noise are divided by `colour_divisor`.
    """

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
    """How the learning rate falls: `plateau` when the validation error stops falling, `steps` at given epochs, `polynomial` with
    (1 - epochs done / `epochs`) ** `power`.

    On a plateau of `patience` validations without a new best, the rate is multiplied by `factor`, at most `reductions`
    times; `at_epochs` are the epochs (fractions allowed) after which `steps` does. In the first `warmup_epochs` the rate of
    every kind is multiplied by a factor that rises linearly from `warmup_from` to 1. `phases`, in the order of their epochs,
    change what the optimizer does with that rate.
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
    """`processes` is how many the plain form starts (auto: one a tower), and starts again `max_restarts` times when one
    dies; `timeout` is the seconds that a step may take before a peer counts as lost.

    `threads` are torch's for each process (auto: the cores over towers times slices, or over the node's processes where there are
    more: the same for a tower whoever holds it, so that one process adds in the same order as two and ends with the same bits).

    `wire` is what maps and their gradients travel as (auto: as they are computed); without `overlap` nothing is computed
    meanwhile. `jobs` of a sweep run at a time, each with its share of the GPUs and of the cores. With `spread` the towers of a
    replica may stand on different nodes though these have several processes.
    """

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
    """`batch_size` counts the images of a step over all replicas; `max_steps` ends a run before its `epochs` do.

    `stop_at_training_error` ends it at the first line of metrics.jsonl whose training error is at most that. `on_nan` is what
    becomes of a step whose loss is NaN or infinite: it stops the run, or its update is left out.
    A step's batch is `slices` runs of consecutive images, computed one after another in a replica, whose gradients are added in a
    fixed binary tree: on so many replicas or fewer the bits are the same.
    `native` is whether the fused operations of this device are used: where they can be had, always or never. `graph` is whether
    a GPU replays a step as a CUDA graph, where that can be, or never. `deterministic`: torch and its libraries take none but
    algorithms that give the same bits each time. `profile` is the first step that is traced and how many are.
    """

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
    """`views` of the closing evaluation (paper, section 4.1); `batch_size` images over all replicas."""

    views: Literal[1, 10]
    batch_size: Positive


@dataclass(frozen=True, config=strict)
class CheckpointSettings:
    """A checkpoint `every` so many steps, every so many `minutes`, and after every validation; the newest `keep` are kept,
    and the best."""

    every: Positive | None
    minutes: Annotated[float, Field(gt=0)] | None
    keep: Positive


@dataclass(frozen=True, config=strict)
class TrackingSettings:
    """`wandb` records the run with W&B beside metrics.jsonl; `none` does not touch W&B.

    `activity` adds to each line of metrics.jsonl one with the size of each layer's activations and of their gradients.
    With `artifacts` W&B also keeps the last and the best checkpoint and the report. `objective` is the figure of the last
    validation that a sweep's jobs are compared by.
    """

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
    """A composed and checked configuration. `model` is the table's rows; `table()` is what they make.

    `resume` is `auto`, `none` or a path: a run folder or a checkpoint. `resume_allow` names what may differ from the checkpoint
    that the run goes on from, where it would be refused. `init_from` is another run's folder or checkpoint, or a file of weights,
    whose layers a new run begins with: those in `init_layers`, or all that agree in name and shape. `experiment` is the name of
    an experiment that is about one model alone, and of that model.
    """

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

"""An image that cannot be read or decoded, and the error that names it."""

from dataclasses import dataclass

from alexnet_dist.errors import UserError


@dataclass(frozen=True)
class BadImage:
    """`sample` is its number in its split, `name` where it is, `reason` a few words, `sentence` what a person is told."""

    sample: int
    name: str
    reason: str
    sentence: str

    @classmethod
    def undecodable(cls, sample: int, name: str, reason: str) -> "BadImage":
        sentence = (
            f"{name} cannot be decoded ({reason}): replace it or remove it, "
            "or pack the images with `python -m alexnet_dist.prepare`, which sorts such files out"
        )
        return cls(sample, name, reason, sentence)


class BadImageError(UserError):
    """`bad` is the image."""

    def __init__(self, bad: BadImage) -> None:
        super().__init__(bad.sentence)
        self.bad = bad

    def __reduce__(self) -> tuple[type["BadImageError"], tuple[BadImage]]:
        return BadImageError, (self.bad,)  # or who pickles it would call it with its sentence

"""The report page: one HTML file of a run or of several, which needs nothing else, no network and no script."""

import base64
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from alexnet_dist import __version__, text
from alexnet_dist.errors import UserError
from alexnet_dist.figures.run_files import RunFiles
from alexnet_dist.files import whole_file

PAGE = "report.html"
_KINDS = {".svg": "image/svg+xml", ".png": "image/png", ".webp": "image/webp"}


class UnwritableError(UserError):
    """A page, or a file beside it, cannot be written."""


@dataclass(frozen=True)
class Tile:
    """A figure that stands out, what it is, and a few words more."""

    figure: str
    what: str
    more: str = ""


def tiles(run: RunFiles) -> list[Tile]:
    """The figures that matter, those that are known."""
    shown = []
    if last := run.final():
        of = f"{last['images']:,} images, {text.views_of(last)}, step {last['step']:,}"
        shown.append(Tile(text.percent(last["top1_error"]), "top-1 error", of))
        shown.append(Tile(text.percent(last["top5_error"]), "top-5 error", of))
    rate, seconds = run.typical("images_per_second"), run.typical("step_seconds")
    if rate is not None and seconds is not None:
        shown.append(Tile(f"{rate:,.0f}", "images a second", f"median; a step takes {1000 * seconds:.0f} ms"))
    if flops := run.typical("flops_per_second"):
        of_peak = run.typical("peak_share")
        shown.append(Tile(text.flop_rate(flops), "arithmetic", "" if of_peak is None else f"{of_peak:.0%} of the peak"))
    train = run.of_kind("train")
    if seconds := sum(record["step_seconds"] for record in train):
        exposed = sum(record["crossing_exposed_seconds"] for record in train) / seconds
        crossed = text.byte_size(run.typical("crossing_bytes"))
        shown.append(Tile(text.percent(exposed, 1), "of the time exposed to crossings", f"a process sends {crossed} a step"))
    if peak := run.most("peak_memory_bytes"):
        shown.append(Tile(text.byte_size(peak), "peak memory", "of the process that held most"))
    if spent := run.seconds():
        over = "over all starts" if all(start["end"] for start in run.starts) else "over the starts whose end is known"
        shown.append(Tile(text.duration(spent), "spent", over if len(run.starts) > 1 else ""))
    return shown


def figures_folder(page: Path, named: bool) -> Path:
    """Make the folder of a page's pictures: figures/ beside it, of a page that was named `<its name>-figures`.

    Raises UserError where it cannot be made.
    """
    folder = page.with_name(f"{page.stem}-figures" if named else "figures")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{folder} cannot be made ({error.strerror}): set output to a page elsewhere") from None
    if not os.access(folder, os.W_OK):
        raise UserError(f"{folder} cannot be written: set output to a page elsewhere")
    return folder


def embedded(path: Path) -> str:
    """A drawn figure as the address of itself, for a page that needs no other file."""
    return _data_uri(path.read_bytes(), _KINDS[path.suffix])


def _data_uri(encoded: bytes, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(encoded).decode()}"


def write_whole(path: Path, content: bytes) -> None:
    """Write a page or a file beside it, whole or not at all. Raises UnwritableError where that cannot be done (a full disk)."""
    try:
        with whole_file(path) as file:
            file.write(content)
    except OSError as error:
        raise UnwritableError(f"{path} cannot be written ({error.strerror}): set output to a page elsewhere") from None


def write_page(page: Path, template: str, **context: Any) -> Path:
    """Fill one of pages/ and write it. Raises UnwritableError as `write_whole`."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "pages"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "percent": text.percent,
        "points": text.points,
        "duration": text.duration,
        "moment": text.moment,
        "bytes": text.byte_size,
        "jpeg": lambda encoded: _data_uri(encoded, "image/jpeg"),
    }
    written = environment.get_template(template).render(version=__version__, views_of=text.views_of, **context)
    write_whole(page, text.printable(written).encode())
    return page

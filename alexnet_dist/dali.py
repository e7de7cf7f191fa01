"""Which DALI is installed. NVIDIA has a package for each CUDA, and all of them lay their files in the same folder."""

from importlib.metadata import distributions

from alexnet_dist.errors import UserError


def dali_package() -> str:
    """The name of the installed package, such as nvidia-dali-cuda130.

    Raises:
        UserError: there is none, or there are several.
    """
    installed = sorted({found.name for found in distributions() if found.name.startswith("nvidia-dali-cuda")})
    if len(installed) > 1:
        raise UserError(
            f"{' and '.join(installed)} are both installed and have overwritten each other's files: "
            f"pip uninstall {' '.join(installed)}, then install the one for your CUDA again"
        )
    if not installed:
        raise UserError("DALI is not installed: pip install nvidia-dali-cuda130, or nvidia-dali-cuda120 where CUDA is 12")
    return installed[0]

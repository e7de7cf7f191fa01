"""Which DALI is installed. NVIDIA has a package for each CUDA, and all of them lay their files in the same folder."""

from importlib.metadata import distributions

from alexnet_dist.errors import UserError


def dali_package() -> str:
    """The name of the installed package, such as nvidia-dali-cuda130.

    Raises:
        UserError: there is none, or there are several.
    """
    # Asked for by name: to read what each package is called takes a tenth of a second.
    names = [f"nvidia-dali-cuda{major}0" for major in range(10, 20)]
    installed = [name for name in names if any(distributions(name=name))]
    if len(installed) > 1:
        raise UserError(
            f"{' and '.join(installed)} are both installed and have overwritten each other's files: "
            f"pip uninstall {' '.join(installed)}, then install the one for your CUDA again"
        )
    if not installed:
        raise UserError("DALI is not installed: pip install nvidia-dali-cuda130, or nvidia-dali-cuda120 where CUDA is 12")
    return installed[0]

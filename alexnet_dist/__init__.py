"""AlexNet as it was trained in 2012: each tower in its own process, crossing where the original crossed."""

__version__ = "0.1.0"

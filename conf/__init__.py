"""The configuration files, shipped as a package so that the commands work from any folder."""

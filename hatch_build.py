"""Give a wheel that carries built kernels the tag of the Python and the platform that they were built for."""

from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class BuiltKernels(BuildHookInterface):
    """Take what ``python -m normscope.kernels.backends.build`` built; without that, the wheel is for every platform."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Look for built files, unless the package is only linked to."""
        folder = Path(self.root) / "src" / "normscope" / "kernels" / "backends" / "prebuilt"
        built = sorted(folder.glob("*.so"))
        if built and version == "standard":
            build_data["pure_python"] = False
            build_data["infer_tag"] = True
            build_data["force_include"] |= {
                str(path): f"normscope/kernels/backends/prebuilt/{path.name}" for path in folder.iterdir()
            }

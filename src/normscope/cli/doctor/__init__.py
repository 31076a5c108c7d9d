"""Checks of the installation, and of a folder for studies; both work without torch."""

from normscope.cli.doctor.folder import diagnose_folder
from normscope.cli.doctor.installation import MALLOC, Check, diagnose_installation

__all__ = ["MALLOC", "Check", "diagnose_folder", "diagnose_installation"]

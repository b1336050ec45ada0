"""Buildpacks for repo2docker, which an administrator names in its configuration.

They are loaded by repo2docker's own process, which may run without the rest of this package's dependencies: nothing of
ours outside this folder comes in, and nothing but repo2docker and what it brings.
"""

from replay_build_service.buildpacks.pypi import PyPIBuildPack as PyPIBuildPack
from replay_build_service.buildpacks.settings import BuildSettings as BuildSettings

__all__ = ["BuildSettings", "PyPIBuildPack"]

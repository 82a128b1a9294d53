"""Map the top-level code folders below the one import root: agents/ is marl.agents, and so on.

Everything else is in pyproject.toml; setuptools can rename packages only when it is told each one,
and this lists them so that a new agent is a new folder and nothing else.
"""

from setuptools import find_packages, setup

FOLDERS = {"marl": "marl", "marl.agents": "agents", "marl.envs": "envs", "marl.conf": "conf"}

setup(
    package_dir=FOLDERS,
    packages=[
        name
        for root, folder in FOLDERS.items()
        for name in [root, *(f"{root}.{package}" for package in find_packages(folder))]
    ],
)

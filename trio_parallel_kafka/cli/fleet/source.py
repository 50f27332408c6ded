"""Where the members' configuration and code come from."""

from __future__ import annotations

import os
import sys

import attrs

from trio_parallel_kafka.config import ConsumerConfig


@attrs.frozen(kw_only=True)
class ConfigSource:
    """A TOML file, or else the environment. Every member reads it for itself, and so anew when it is restarted.

    Attributes:
        file: the TOML file; ``None``: the environment.
        table: the table in it; ``None``: one of the usual.
        env_file: a ``.env`` file that the environment overrides.
    """

    file: str | None = None
    table: str | None = None
    env_file: str | None = None

    def load(self) -> ConsumerConfig:
        """Read and check it.

        Raises:
            ConfigError: what is wrong with it.
        """
        if self.file is not None:
            return ConsumerConfig.from_toml(self.file, table=self.table)
        return ConsumerConfig.from_env(dotenv=self.env_file)

    def arguments(self) -> list[str]:
        """The arguments of the command line that name it."""
        named = {"--config": self.file, "--table": self.table, "--env-file": self.env_file}
        return [f"{option}={value}" for option, value in named.items() if value is not None]


def make_current_directory_importable() -> None:
    """As ``python -m`` does, wherever the script of the command line is."""
    here = os.getcwd()  # noqa: PTH109 - sys.path holds texts
    if "" not in sys.path and here not in sys.path:
        sys.path.insert(0, here)

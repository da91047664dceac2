"""`specbound profile`: parse, profile, print."""

from collections.abc import Sequence

from specbound.cli.parsing import parse_config
from specbound_profiling.config import ProfileConfig


def run(argv: Sequence[str]) -> None:
    config = parse_config(ProfileConfig, "profile", argv)
    from specbound.cli.edge import quieten_libraries
    from specbound_profiling.profile import profile

    quieten_libraries()
    print(profile(config))

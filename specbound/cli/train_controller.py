"""`specbound train-controller`: parse, train, print."""

from collections.abc import Sequence

from specbound.cli.parsing import parse_config
from specbound_train.config import TrainConfig


def run(argv: Sequence[str]) -> None:
    config = parse_config(TrainConfig, "train-controller", argv)
    from specbound.cli.edge import quieten_libraries
    from specbound_train.train import train_controller

    quieten_libraries()
    print(train_controller(config))

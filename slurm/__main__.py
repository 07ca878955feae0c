"""``kinesic slurm STAGE [cluster settings] [the stage's own arguments]``: a stage as a job on a cluster."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence

import configs
from slurm.config import ClusterConfig

COMMAND = {"data_prep": "build", "pretrain": "run", "finetune": "run"}  # what a stage's name alone means
RECIPE = "--cluster_config"  # --config is the stage's

USAGE = """usage: kinesic slurm STAGE [cluster settings] [the stage's own arguments]

  kinesic slurm pretrain --nodes 2 --config demo --data.shards SHARDS --out RUN
  kinesic slurm data_prep --cpus_per_task 32 --time 600 MANIFEST OUT
  kinesic slurm data_prep --array 16 --cpus_per_task 8 MANIFEST OUT      then: kinesic data_prep merge OUT
  kinesic slurm finetune --gpus_per_node 1 --encoder RELEASE --data SHARDS --labels labels.csv --out TUNED

STAGE is data_prep (= data_prep build), pretrain (= pretrain run) or finetune (= finetune run).
What is not a cluster setting goes to the stage unchanged; so does everything after --.
--dry_run prints the script and queues nothing. 'kinesic slurm STAGE --help' lists the cluster settings."""


def split_arguments(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """(cluster settings, the stage's arguments) of what follows STAGE."""
    ours = {f"--{name}": kind for name, kind in configs.field_types(ClusterConfig).items()} | {RECIPE: str}
    cluster: list[str] = []
    stage: list[str] = []
    rest = list(argv)
    while rest:
        argument = rest.pop(0)
        name = argument.split("=")[0]
        if argument == "--":
            return cluster, stage + rest
        if name not in ours:
            stage.append(argument)
            continue
        cluster.append(argument)
        bare = ours[name] is bool and not (rest and rest[0].lower() in {"true", "false"})
        if "=" not in argument and not bare and rest:
            cluster.append(rest.pop(0))
    return cluster, stage


def stage_command(stage: str, arguments: Sequence[str]) -> list[str]:
    """The stage's full command: pretrain --config x -> pretrain run --config x; a command that is named stays."""
    named = arguments and not arguments[0].startswith("-")
    if named and (stage != "data_prep" or arguments[0] == COMMAND[stage]):  # a bare word there is build's MANIFEST
        return [stage, *arguments]
    return [stage, COMMAND[stage], *arguments]


def main(argv: Sequence[str] | None = None) -> int:
    argv = list(sys.argv[1:] if argv is None else argv)
    if not argv or argv[0] in {"-h", "--help"}:
        print(USAGE)
        return 0 if argv else 2
    if argv[0] not in COMMAND:
        print(f"kinesic slurm: no stage {argv[0]!r}; there are: {', '.join(COMMAND)}", file=sys.stderr)
        return 2
    stage, (cluster, arguments) = argv[0], split_arguments(argv[1:])
    if not argv[1:] or {"-h", "--help"} & set(arguments):
        cluster, arguments = ["--help"], []

    def run(config: ClusterConfig) -> int:
        submit = importlib.import_module("slurm.submit").submit
        return submit(config, stage_command(stage, arguments))

    help_text = f"kinesic {stage} {COMMAND[stage]} as a job; what is not listed here goes to it unchanged"
    command = configs.Command(help_text, ClusterConfig, run, recipe_option=RECIPE)
    return configs.main("slurm", {stage: command}, [stage, *cluster])


if __name__ == "__main__":
    sys.exit(main())

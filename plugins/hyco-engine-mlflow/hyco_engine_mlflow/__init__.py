"""Runs of hyco-engine in MLflow. It imports mlflow only when it is built."""

from __future__ import annotations

from hyco_engine import Record, hookimpl, imported, option, options


@options
class MlflowOptions:
    """`[trackers.mlflow]`."""

    tracking_uri: str = option(
        "sqlite:///mlflow.db",
        help="where MLflow keeps runs: a file, relative to the working directory, or a server such as "
        "https://mlflow.example.org; credentials belong in MLflow's environment variables",
    )
    experiment: str = option("hyco-engine", help="the experiment that the run belongs to; made where it is not there")
    artifacts: bool = option(True, help="weights, figures and summary are kept in MLflow as well")

    def __attrs_post_init__(self) -> None:
        for name in ("tracking_uri", "experiment"):
            if not getattr(self, name).strip():
                raise ValueError(f"{name} must not be empty")


@hookimpl
def hyco_trackers() -> list[Record]:
    return [
        Record(
            kind="mlflow",
            summary="settings, metrics, results and files of a run in MLflow: a local file or a server",
            options=MlflowOptions,
            factory=imported("hyco_engine_mlflow.tracker"),
        )
    ]

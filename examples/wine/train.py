"""Tell three Italian grape varieties apart by a chemical analysis of their wine.

Grows a random forest in ten steps on the 178 wines of scikit-learn's wine data and logs to MLflow
what it was given, how good it is after each step, where it errs, and the model itself.
"""

from __future__ import annotations

import argparse
from importlib.metadata import version

import matplotlib

matplotlib.use("agg")  # draws without a display: a cluster has none

import matplotlib.pyplot as plt
import mlflow
import pandas as pd
from mlflow.models import infer_signature
from sklearn.datasets import load_wine
from sklearn.ensemble import RandomForestClassifier
from sklearn.metrics import ConfusionMatrixDisplay, accuracy_score, log_loss
from sklearn.model_selection import train_test_split

STEPS = 10


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--n-estimators", type=int, default=100, help="trees in the whole forest")
    parser.add_argument("--max-depth", type=int, default=3, help="depth of each tree")
    parser.add_argument("--test-size", type=float, default=0.25, help="share of wines held out")
    parser.add_argument("--seed", type=int, default=7)
    return parser.parse_args()


def log_options(options: argparse.Namespace, run: mlflow.ActiveRun) -> None:
    # A parameter of a run never changes. `mlflow run` has logged those of MLproject as they were
    # typed, where ".25" is not "0.25"; `python train.py` has logged none.
    known = run.data.params
    mlflow.log_params({key: val for key, val in vars(options).items() if key not in known})


def grow(
    forest: RandomForestClassifier,
    n_estimators: int,
    train: tuple[pd.DataFrame, pd.Series],
    test: tuple[pd.DataFrame, pd.Series],
) -> None:
    """Train the forest, some trees at a time, with one point of each metric per step."""
    for step in range(1, STEPS + 1):
        forest.set_params(n_estimators=max(1, n_estimators * step // STEPS))
        forest.fit(*train)
        metrics = {
            "train_accuracy": accuracy_score(train[1], forest.predict(train[0])),
            "test_accuracy": accuracy_score(test[1], forest.predict(test[0])),
            "test_log_loss": log_loss(test[1], forest.predict_proba(test[0])),
        }
        mlflow.log_metrics(metrics, step=step)
        print(
            f"step {step}/{STEPS}: {forest.n_estimators} trees, "
            f"accuracy {metrics['test_accuracy']:.3f}, log loss {metrics['test_log_loss']:.3f}",
            flush=True,
        )


def log_confusion(
    forest: RandomForestClassifier, test: tuple[pd.DataFrame, pd.Series], labels: list[str]
) -> None:
    figure, axes = plt.subplots(figsize=(5, 4.5), layout="constrained")
    ConfusionMatrixDisplay.from_estimator(
        forest, *test, display_labels=labels, cmap="Blues", colorbar=False, ax=axes
    )
    axes.set_title("Wines held out")
    mlflow.log_figure(figure, "confusion_matrix.png")
    plt.close(figure)


def log_model(forest: RandomForestClassifier, features: pd.DataFrame) -> None:
    # Named here because MLflow would otherwise load the model in a second process to find them.
    needed = [f"{name}=={version(name)}" for name in ("scikit-learn", "skops", "pandas")]
    mlflow.sklearn.log_model(
        forest,
        name="model",
        signature=infer_signature(features, forest.predict(features)),
        input_example=features.head(3),
        pip_requirements=needed,
        serialization_format="skops",  # unlike pickle, loading it runs no code
        skops_trusted_types=["sklearn.tree._tree.Tree"],
    )


def main() -> None:
    options = parse_options()
    wine = load_wine(as_frame=True)
    train_x, test_x, train_y, test_y = train_test_split(
        wine.data,
        wine.target,
        test_size=options.test_size,
        random_state=options.seed,
        stratify=wine.target,
    )
    print(f"{len(train_x)} wines to learn from, {len(test_x)} held out", flush=True)
    forest = RandomForestClassifier(
        max_depth=options.max_depth, random_state=options.seed, warm_start=True
    )
    with mlflow.start_run() as run:  # the run that `mlflow run` created, if it did
        log_options(options, run)
        grow(forest, options.n_estimators, (train_x, train_y), (test_x, test_y))
        log_confusion(forest, (test_x, test_y), [str(name) for name in wine.target_names])
        log_model(forest, train_x)
    print("logged the model, its signature and the confusion matrix", flush=True)


if __name__ == "__main__":
    main()

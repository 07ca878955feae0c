"""Features of videos, once; then anything of scikit-learn on them, without kinesic and in seconds.

    kinesic finetune extract --encoder RELEASE VIDEOS --out features.parquet
    python examples/features_into_scikit_learn.py features.parquet labels.csv TARGET

labels.csv: recording, TARGET, and participant where somebody is in several recordings: nobody is trained on and tested on. A
recording is told by the mean and the spread of its clips' features, of every stream.
"""

from __future__ import annotations

import sys

import numpy as np
import pandas as pd
from sklearn.dummy import DummyClassifier
from sklearn.linear_model import LogisticRegressionCV
from sklearn.model_selection import StratifiedGroupKFold, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler


def by_recording(table: pd.DataFrame) -> pd.DataFrame:
    """Rows of ``extract`` -> one row a recording: mean and deviation of each stream's features; 0 where it has none."""
    wide = {}
    for (recording, stream), rows in table.groupby(["recording", "stream"]):
        values = np.stack(rows["feature"].tolist())
        told = np.concatenate([values.mean(0), values.std(0)])
        wide.setdefault(recording, {}).update({f"{stream}_{k}": value for k, value in enumerate(told)})
    return pd.DataFrame.from_dict(wide, orient="index").fillna(0.0)


def main(features: str, labels: str, target: str) -> None:
    """Prints the balanced accuracy over folds of participants (or recordings), beside the most frequent class."""
    matrix = by_recording(pd.read_parquet(features))
    named = pd.read_csv(labels, dtype={"recording": str, "participant": str}).drop_duplicates("recording")
    named = named.set_index("recording", drop=False)
    matrix = matrix.loc[matrix.index.intersection(named.index)]
    wanted = named.loc[matrix.index, target].astype(str)
    people = named.loc[matrix.index, "participant" if "participant" in named else "recording"]
    most = people.groupby(wanted).nunique().min()  # folds: of the rarer class everybody could be in another
    folds = StratifiedGroupKFold(min(5, int(most)), shuffle=True, random_state=0)
    model = make_pipeline(StandardScaler(), LogisticRegressionCV(Cs=np.logspace(-4, 0, 5), cv=3, max_iter=1000))
    for name, classifier in (("features", model), ("most frequent class", DummyClassifier())):
        found = cross_val_score(classifier, matrix, wanted, groups=people, cv=folds, scoring="balanced_accuracy")
        print(f"{name}: balanced accuracy {found.mean():.3f} ± {found.std():.3f} over {len(found)} folds")


if __name__ == "__main__":
    main(*sys.argv[1:])

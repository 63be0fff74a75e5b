"""An ordinary Optuna objective, which hpo runs unchanged.

    python -m hpo.run --objective quadratic:objective --trials 40

It has a conditional parameter, reports as it goes, and lets itself be pruned.
"""

from __future__ import annotations

import optuna


def objective(trial: optuna.Trial) -> float:
    """Walk towards the minimum of a parabola; the optimiser and its step are the parameters."""
    method = trial.suggest_categorical("method", ["constant", "decaying"])
    rate = trial.suggest_float("rate", 1e-3, 1.5, log=True)
    decay = trial.suggest_float("decay", 0.5, 1.0) if method == "decaying" else 1.0

    x = 10.0
    for step in range(20):
        x -= rate * 2 * x
        rate *= decay
        trial.report(x * x, step)
        if trial.should_prune():
            raise optuna.TrialPruned
    trial.set_user_attr("final_rate", rate)
    return x * x


if __name__ == "__main__":
    # The same with Optuna alone, or through hpo from Python.
    import hpo

    study = hpo.optimize(objective, trials=40, study="quadratic")
    print(study.best_params)

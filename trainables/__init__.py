"""What a trial runs: a student, its teacher, their data and the loop. Imports neither Ray (but for `ray_train`) nor Optuna."""

"""What a trial runs: a student, its teacher, their data and the loop. Only `ray_train` imports Ray."""

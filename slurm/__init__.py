"""WHERE it runs: cluster profiles, submission through submitit, signals, observation, and the local backend."""

"""The command line: every verb in one place, no logic. Heavy libraries are imported inside the verbs."""

"""The same episode for other stacks: TRL, verifiers, OpenEnv, verl."""

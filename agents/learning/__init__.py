"""How an agent learns: advantages and losses as pure functions, and the learners on top."""

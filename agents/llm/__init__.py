"""A vision-language policy on transformers classes; one token record from SFT to rollout."""

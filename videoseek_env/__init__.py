"""A Gymnasium environment library for agents that think with videos."""

"""Other environments made of the same episode, and the factories behind the Gymnasium ids."""

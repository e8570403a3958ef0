"""The official clients, and ours, against a hub of one's own: the experiments of its protocol, one test each."""

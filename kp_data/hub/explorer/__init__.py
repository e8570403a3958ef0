"""The explorer: a dataset's rows, statistics and versions as pages and as an API, from a hub or from a folder."""

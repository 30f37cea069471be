"""Everything that is only needed because of Prefect: its server, its records and its UI."""

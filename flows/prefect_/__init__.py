"""Everything that exists only because of Prefect: its server, its records, its UI."""
